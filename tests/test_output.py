"""Commands that are stopped, whose output is closed, or whose output cannot show every character."""

import os
import signal
import subprocess
import sys

import pytest

from runners.places import CONFIGS

ROOT = CONFIGS.parent
# Like a command whose imports or work take long.
SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # also where the tests run in the background
sys.argv = ["-m"]
import runners
sys.argv = ["command"]
print("importing", flush=True)
time.sleep(60)
"""
PRINTS = """
from hydra import compose
from runners import app

def work(config):
    for number in range(3000):
        app.tell(f"line {number} \u2020")
    print(config.n, file=open("done", "w"))

app.run(work, "evaluate")
"""


def test_ctrl_c_during_the_imports_is_one_line():
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "stopped before any work began\n"


IGNORES = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv = ["-m"]
import runners
from runners.exits import begin
begin()
print(signal.getsignal(signal.SIGINT) is signal.SIG_IGN)
"""


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it():
    done = subprocess.run([sys.executable, "-c", IGNORES], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


@pytest.fixture
def command(tmp_path):
    """Return a command that prints much, and the folder and environment in which it runs."""
    script = tmp_path / "command.py"
    script.write_text(PRINTS)
    return [sys.executable, str(script)], {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(ROOT)}}


def test_work_goes_on_when_its_output_is_closed(command, tmp_path):
    words, options = command
    process = subprocess.Popen(words, **options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert (process.wait(), errors) == (0, "")
    assert (tmp_path / "done").read_text() == "24\n"


def test_characters_that_the_output_cannot_show_are_replaced(command):
    words, options = command
    options["env"] = options["env"] | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(words, **options, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "line 7 ?\n" in done.stdout
