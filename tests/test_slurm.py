"""Tests with a real Slurm (make test-slurm): a cluster that answers, or else a node that is started here."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from runners.store.leases import Leases
from tests.small_table import ROOT, run, same, start, undisturbed, words

pytestmark = pytest.mark.slurm
DAEMONS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "munged": "munge", "sbatch": "slurm-client"}
ACCOUNTS = ("mariadbd", "slurmdbd")
UP = ROOT / "scripts" / "slurm_up.sh"


def answers() -> bool:
    try:
        return subprocess.run(["sinfo", "-h"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Start Slurm if none answers, and yield whether it keeps accounts."""
    if answers():
        yield subprocess.run(["sacct", "-n"], capture_output=True).returncode == 0
        return
    lacking = sorted({package for program, package in DAEMONS.items() if shutil.which(program) is None})
    if lacking:
        pytest.skip(f"Slurm is not here: apt-get install --no-install-recommends {' '.join(lacking)}")
    if os.geteuid() != 0:
        pytest.skip("no Slurm answers, and only root can bring one up")
    accounts = all(shutil.which(program) for program in ACCOUNTS)
    folder = tmp_path_factory.mktemp("slurm")
    environment = {**os.environ, "ROOT": str(folder), "SACCT": str(int(accounts))}
    try:
        subprocess.run(["bash", UP, "start"], env=environment, check=True, timeout=120)
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        yield accounts
    finally:
        subprocess.run(["bash", UP, "stop"], env=environment, timeout=120)
        os.environ.pop("SLURM_CONF", None)


def launcher(folder: Path) -> list[str]:
    """Return the words that launch Slurm jobs of one core."""
    return [
        "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1",
        f"hydra.launcher.submitit_folder={folder}/jobs/%j", f"hydra.sweep.dir={folder}/sweep", "--multirun",
    ]  # fmt: skip


def sent(folder: Path, *more: str, jobs: int = 2) -> list[str]:
    """Return the command that makes the small table by jobs."""
    return words(folder, *more, f"shard=range({jobs})", *launcher(folder), n=8, steps=60)


def rendered(folder: Path) -> str:
    """Return what the same command prints without a launcher."""
    status, out, err = run(words(folder, n=8, steps=60))
    assert status == 0, err
    return out


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Path:
    """Make the small table by one process, and return its folder."""
    return undisturbed(tmp_path_factory.mktemp("calm"), n=8)


def queued(*more: str) -> list[str]:
    """Return the jobs in Slurm's queue."""
    command = ["squeue", "-h", "-r", "-o", "%i", *more]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def working(folder: Path, process: subprocess.Popen) -> list[str]:
    """Return the running jobs once they have stored purified images."""
    for _ in range(3000):
        assert process.poll() is None, process.communicate()
        jobs = queued("-t", "RUNNING")
        if jobs and len(list((folder / "store" / "purified").rglob("*"))) > 2:
            return jobs
        time.sleep(0.1)
    raise AssertionError("no job began to work in five minutes")


def kill_hard(folder: Path) -> None:
    """Send SIGKILL to a job that holds claims; scancel --signal=KILL would ask it to end first."""
    pids = [holder.pid for _, holder in Leases(folder / "store" / "claims").all() if holder.lives()]
    if not pids:
        pytest.skip("the jobs run on another machine, where they cannot be killed from here")
    os.kill(pids[0], signal.SIGKILL)


def test_a_table_through_slurm_is_that_of_one_process(slurm, calm, tmp_path):
    status, out, err = run(sent(tmp_path))
    assert status == 0, err
    assert "written" not in out
    assert not list((tmp_path / "tables").glob("*.md")), "jobs render nothing"
    assert "nothing to compute" in rendered(tmp_path)
    same(tmp_path, calm)


def test_a_job_killed_hard_leaves_its_work_to_the_other(slurm, calm, tmp_path):
    process = start(sent(tmp_path))
    working(tmp_path, process)
    kill_hard(tmp_path)
    for _ in range(600):
        if process.poll() is not None or not queued():
            break
        time.sleep(1)
    if slurm:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 1, err
        assert "has not produced any output" in err
    else:  # without accounts (sacct) submitit waits for ever
        process.terminate()
        process.communicate(timeout=60)
    assert "nothing to compute" in rendered(tmp_path)
    same(tmp_path, calm)


@pytest.mark.parametrize("asked", ["USR2", "TERM"])
def test_a_job_asked_to_end_gives_up_its_claims_and_the_work_goes_on(slurm, calm, tmp_path, asked):
    """USR2 comes before a time limit, and submitit puts the job back; Slurm sends TERM before it preempts."""
    process = start(sent(tmp_path, jobs=1))
    (job,) = working(tmp_path, process)
    subprocess.run(["scancel", f"--signal={asked}", job], check=True)
    _, err = process.communicate(timeout=600)
    again = subprocess.run(
        ["scontrol", "show", "job", job.split("_")[0]], capture_output=True, text=True
    ).stdout
    if asked == "USR2":
        assert process.returncode == 0, err
        assert "Restarts=1" in again, again
    else:
        assert process.returncode == 1, err
        assert "error: a job was asked to end by SIGTERM; finished work is kept" in err
        assert "Restarts=0" in again, again
        assert not list((tmp_path / "store" / "claims").iterdir())
    assert ("nothing to compute" in rendered(tmp_path)) == (asked == "USR2")
    same(tmp_path, calm)


def sweep(folder: Path, *more: str) -> list[str]:
    own = [w for w in words(folder) if w.startswith(("victim", "store", "records", "workers"))]
    python, flag, *_ = words(folder)
    return [python, flag, "runners.evaluate", "attack=fgsm", "n=4", "chunk=2", *own, *more, *launcher(folder)]


def test_a_sweep_of_hydra_through_slurm(slurm, tmp_path):
    words = sweep(tmp_path, "purifier=none,jpeg", "hydra.launcher.timeout_min=20")
    command = [word.replace("launcher=slurm", "launcher=submitit_slurm") for word in words]
    status, _, err = run(command)
    assert status == 0, err
    assert len(list((tmp_path / "records").glob("*.parquet"))) == 2


def test_a_sweep_tells_of_a_cell_that_failed(slurm, tmp_path):
    broken = "purifier=none", "purifier._target_=tests.broken.Raises,purifiers.identity.Identity"
    status, _, err = run(sweep(tmp_path, *broken))
    assert status == 1, err
    assert "ZeroDivisionError: on purpose" in err
    assert len(list((tmp_path / "records").glob("*.parquet"))) == 1


def test_a_sweep_does_not_hang_on_a_job_killed_hard(slurm, tmp_path):
    if not slurm:
        pytest.skip("without accounts (sacct) submitit waits for a killed job")
    steps = "purifier.steps=100000"
    process = start(sweep(tmp_path, "purifier=dip", steps, "budget_hours=1000"))
    for _ in range(1200):
        assert process.poll() is None, process.communicate()
        if list((tmp_path / "store").glob("claims/*")):
            break
        time.sleep(0.1)
    kill_hard(tmp_path)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1, err
    assert "Traceback" not in err


def test_bad_input_of_a_job_is_told_in_one_line(slurm, tmp_path):
    status, _, err = run(sent(tmp_path, "seed=-1"))
    assert status == 2, err
    assert err.strip().splitlines()[-1] == "error: seed: expected 0 or more, got -1"
    assert "Traceback" not in err
    status, _, err = run(sent(tmp_path, "hydra.launcher.partition=nowhere"))
    assert status == 2, err
    assert "partition" in err
    assert "Traceback" not in err
