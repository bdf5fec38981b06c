"""Real faults (make test-faults), after which a run ends in undisturbed records or in a clear error.

Figures of such a run are in docs/reliability.md.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.small_table import BARE, records, run, same, start, undisturbed, words

pytestmark = pytest.mark.faults
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small file system")


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    """Return the folder of an undisturbed run with 8 chunks per entry."""
    return undisturbed(tmp_path_factory.mktemp("calm"), n=16)


@pytest.fixture
def figure(request):
    """Return a function that prints a figure for docs/reliability.md even if pytest captures the output."""

    def told(text: str) -> None:
        with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
            sys.stdout.write(f"\n{request.node.name}: {text}\n")

    return told


def table(folder: Path, *more: str, rows: str | None = None) -> list[str]:
    return words(folder, *more, n=16, steps=60, rows=rows)


def trained(calm: Path, folder: Path) -> Path:
    """Make a store in `folder` that holds only the trained victim and the checks of purifiers."""
    for stage in ("weights", "traits"):
        shutil.copytree(calm / "store" / stage, folder / "store" / stage)
    return folder


def artefacts(folder: Path, stage: str) -> list[Path]:
    return sorted(path for path in (folder / "store" / stage).rglob("*") if path.is_file())


def begun(process: subprocess.Popen, folder: Path) -> bool:
    """Wait until the process has begun its work; return False if it ended before."""
    while process.poll() is None:
        if any((folder / "store" / "claims").glob("*.?")):
            return True
        time.sleep(0.05)
    return False


def test_killed_fifty_times_the_records_are_those_of_an_undisturbed_run(tmp_path, figure):
    moments, kills, folders = random.Random(11), 0, [tmp_path / "0"]
    longer = ",".join(f"{{label:DIP {i},cell:['purifier=dip','purifier.steps={60 + i}']}}" for i in range(4))
    rows = f"[{longer},{BARE}]"
    while kills < 50:
        process = start(table(folders[-1], rows=rows))
        if begun(process, folders[-1]):
            time.sleep(moments.uniform(0, 2.5))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        _, err = process.communicate()
        if process.returncode == 0:  # done in spite of all kills, so the next ones hit another store
            folders.append(tmp_path / str(len(folders)))
        else:
            assert process.returncode == -signal.SIGKILL, err
    expected = tmp_path / "calm"
    for folder in [expected, *folders]:
        status, _, err = run(table(folder, rows=rows))
        assert status == 0, err
        same(folder, expected)
    figure(f"{kills} kills, over {len(folders)} stores")


def test_eight_runners_on_one_store_share_the_work(calm, tmp_path, figure):
    note = tmp_path / "writes"
    folders = [tmp_path / str(i) for i in range(8)]
    store = f"store={tmp_path}/store"
    runners = [start(table(folder, store), NOTE_WRITES=str(note)) for folder in folders]
    for runner in runners:
        _, err = runner.communicate(timeout=900)
        assert runner.returncode == 0, err
    for folder in folders:
        same(folder, calm)
    writes = Counter(note.read_text().split())
    stages = ("adversarial", "purified", "records", "weights")
    work = {name: count for name, count in writes.items() if name.startswith(stages)}
    assert len(work) == 16 + 32 + 32 + 1
    twice = sum(count - 1 for count in work.values())
    figure(f"{len(work)} artefacts by {len(runners)} runners, {twice} made twice")
    assert twice <= 1, [name for name, count in work.items() if count > 1]
    assert not list((tmp_path / "store" / "claims").iterdir())


@contextmanager
def mounted(folder: Path, size: str):
    """Mount a file system of this size in memory, and unmount it afterwards."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)


@ROOT_ONLY
def test_a_full_file_system_is_a_clear_error_and_nothing_is_lost(calm, tmp_path):
    with mounted(tmp_path / "store", "1m"):
        trained(calm, tmp_path / "copy")
        shutil.copytree(tmp_path / "copy" / "store", tmp_path / "store", dirs_exist_ok=True)
        status, _, err = run(table(tmp_path))
        assert status == 2
        assert "No space left on device" in err
        assert "finished work is kept" in err
        assert "Traceback" not in err
        times = {path: path.stat().st_mtime_ns for path in artefacts(tmp_path, "purified")}
        assert times
        remount(tmp_path / "store", "size=64m")
        status, _, err = run(table(tmp_path))
        assert status == 0, err
        assert times == {path: path.stat().st_mtime_ns for path in times}, "finished chunks were made again"
        same(tmp_path, calm)


@ROOT_ONLY
def test_a_store_that_cannot_be_written(calm, tmp_path):
    with mounted(tmp_path / "store", "64m"):
        shutil.copytree(calm / "store", tmp_path / "store", dirs_exist_ok=True)
        remount(tmp_path / "store", "ro")
        status, out, err = run(table(tmp_path))
        assert status == 0, err
        assert "nothing to compute" in out
        same(tmp_path, calm)
        remount(tmp_path / "store", "rw")
        artefacts(tmp_path, "records")[3].unlink()
        remount(tmp_path / "store", "ro")
        status, _, err = run(table(tmp_path))
        assert status == 2
        assert "Read-only file system" in err
        assert "Traceback" not in err
        remount(tmp_path / "store", "rw")
        assert run(table(tmp_path))[0] == 0
        same(tmp_path, calm)


@pytest.mark.parametrize("hours", [-5, 5], ids=["behind", "ahead"])
def test_clocks_that_differ(calm, tmp_path, hours):
    """Chunks and a dead host's claims lie in the future, as after a clock was set back, or in the past."""
    shutil.copytree(calm / "store", tmp_path / "store")
    for path in artefacts(tmp_path, "records")[::2]:
        path.unlink()
    file_time = time.time() + 3600 * hours
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (file_time, file_time))
    manifest = json.loads(artefacts(tmp_path, "manifests")[0].read_bytes().partition(b"\n")[2])
    claims = tmp_path / "store" / "claims"
    claims.mkdir(exist_ok=True)
    for chunks in manifest["cells"].values():
        claim = claims / f"{chunks[0][1]}.0"
        claim.write_text(json.dumps({"host": "gone", "place": "elsewhere", "pid": 1}))
        os.utime(claim, (file_time, file_time))
    start_ = time.monotonic()
    status, _, err = run(table(tmp_path), STALE_SECONDS="10")
    assert status == 0, err
    assert time.monotonic() - start_ < 120
    same(tmp_path, calm)


def test_a_claim_of_a_living_process_is_respected_and_of_a_dead_one_taken(calm, tmp_path):
    """A stopped process renews no claim, so another does its work; when it continues, nothing is damaged."""
    shutil.copytree(calm / "store", tmp_path / "store")
    shutil.rmtree(tmp_path / "store" / "records")
    shutil.rmtree(tmp_path / "store" / "purified")
    other = tmp_path / "other"
    first = start(table(tmp_path), STALE_SECONDS="5")
    assert begun(first, tmp_path)
    os.killpg(first.pid, signal.SIGSTOP)
    status, _, err = run(table(other, f"store={tmp_path}/store"), STALE_SECONDS="5")
    assert status == 0, err
    os.killpg(first.pid, signal.SIGCONT)
    _, err = first.communicate(timeout=300)
    assert first.returncode == 0, err
    same(other, calm)
    same(tmp_path, calm)


def test_a_data_folder_that_disappears(tmp_path):
    """The link to the data goes while a run works, and is still missing in the next run."""
    real = os.environ.get("DATA_DIR")
    if not real or not Path(real, "cifar-10-batches-py").is_dir():
        pytest.skip("needs DATA_DIR with CIFAR-10")
    link = tmp_path / "data"

    def command(folder: Path) -> list[str]:
        common_words = [w for w in words(folder) if not w.startswith("victim.")]
        return [*common_words, "dataset=cifar10", "victim=resnet20", f"data_dir={link}"]

    link.symlink_to(real)
    expected = tmp_path / "calm"
    assert run(command(expected))[0] == 0
    process = start(command(tmp_path))
    assert begun(process, tmp_path)
    link.unlink()
    _, err = process.communicate(timeout=300)
    assert process.returncode in (0, 1, 2)
    assert "Traceback" not in err
    shutil.rmtree(tmp_path / "tables", ignore_errors=True)
    status, out, err = run(command(tmp_path))
    assert "Traceback" not in err
    assert status == 2 or "skipped" in out
    assert "not in" in out + err, "it does not say what is missing"
    link.symlink_to(real)
    assert run(command(tmp_path))[0] == 0
    for name in ("md", "tex"):
        path = f"tables/ddip-table1-cifar10-resnet20.{name}"
        ours, theirs = (sorted((folder / "tables").glob(f"*.{name}")) for folder in (tmp_path, expected))
        assert [p.read_bytes() for p in ours] == [p.read_bytes() for p in theirs], path


CGROUP = Path("/sys/fs/cgroup/memory")


@ROOT_ONLY
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_the_kernel_kills_for_memory_is_a_failed_cell(calm, tmp_path, workers):
    group = CGROUP / f"purifybench-{os.getpid()}-{workers}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(3 * 2**30))
    except OSError:
        pytest.skip("needs a cgroup for memory (version 1)")
    trained(calm, tmp_path)
    hoards = "{label:Hoards,cell:['purifier=none','purifier._target_=tests.broken.Hoards']}"
    slow = "{label:DIP,cell:['purifier=dip','purifier.steps=600']}"  # enough work for processes of their own
    join = ["bash", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "bash"]
    command = words(tmp_path, f"workers={workers}", n=4, rows=f"[{hoards},{slow},{BARE}]")
    status, out, err = run([*join, *command])
    assert status == 1, (out, err)
    assert "its process died (killed, or out of memory)" in out
    assert set(records(tmp_path).purifier) == {"none", "dip"}
    assert len(records(tmp_path)) == 2 * 2 * 4, "the other cells are whole"
    assert "oom_kill 0" not in (group / "memory.oom_control").read_text(), "nothing was killed"
    status_text = run([command[0], "-m", "runners.store", "--store", f"{tmp_path}/store", "status"])[1]
    assert "4 failed" in status_text
    group.rmdir()
