"""Jobs elsewhere: on Slurm or in processes of their own by submitit, or in joblib's."""

import getpass
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import submitit
import torch
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from data.errors import InputError
from runners.grids.share import Share
from runners.work.pool import worker_count

UNSEEN = 60.0  # seconds after its submission that a job may not be in the queue yet
LATE = 15.0  # seconds that a result may take to be seen on a network file system


class Submitit:
    """Jobs by submitit, with the parameters of Hydra's launcher of that name.

    One that leaves the queue without a result is over, also where the cluster keeps no accounts.
    """

    def __init__(self, cluster: str, parameters: dict[str, Any]) -> None:
        self.cluster, self.jobs, self.sent = cluster, [], 0.0
        self._gone: dict[str, float] = {}  # when a job was first seen to have left the queue
        folder = parameters.pop("submitit_folder")
        first = (
            {f"{cluster}_max_num_timeout": parameters.pop("max_num_timeout", 0)} if cluster == "slurm" else {}
        )
        shared = BaseQueueConf.__dataclass_fields__
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster, **first)
            self.executor.update_parameters(
                **{
                    name if name in shared else f"{cluster}_{name}": value
                    for name, value in parameters.items()
                }
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise InputError(f"hydra/launcher={cluster}: {str(error).splitlines()[0]}") from error

    def submit(self, shares: Sequence[Share]) -> None:
        """As one array."""
        if self.cluster == "local":
            shares = _one_machine(shares)
        try:
            with self.executor.batch():
                jobs = [self.executor.submit(share) for share in shares]
        except (submitit.core.utils.FailedJobError, OSError) as error:
            raise InputError(f"hydra/launcher={self.cluster}: {' '.join(str(error).split())}") from error
        self.jobs, self.sent = jobs, time.monotonic()

    def alive(self) -> int:
        """How many are waiting or running."""
        queued = _queued() if self.cluster == "slurm" else None
        return sum(not self._over(job, queued) for job in self.jobs)

    def _over(self, job: submitit.Job, queued: set[str] | None) -> bool:
        if _result(job).exists():
            return True
        if self.cluster == "local":
            return job.done()
        if queued is None or job.job_id in queued or time.monotonic() - self.sent < UNSEEN:
            self._gone.pop(job.job_id, None)
            return False
        return time.monotonic() - self._gone.setdefault(job.job_id, time.monotonic()) > LATE

    def problems(self) -> list[str]:
        """What went wrong with those that ended, in one line each."""
        found = []
        for job in self.jobs:
            if not _result(job).exists():
                found.append(f"job {job.job_id} ended without a result (killed, or out of memory?)")
            elif (error := job.exception()) is not None:
                told = [
                    line for line in str(error).splitlines() if line.strip() and not line.startswith("---")
                ]
                found.append(f"job {job.job_id} failed: {told[-3] if len(told) > 3 else told[-1]}")
            else:
                continue
            found[-1] += f"; its log: {job.paths.stderr}"
        return found

    def errors(self) -> list[str]:
        """The bad input that they met."""
        ended = [job for job in self.jobs if _result(job).exists() and job.exception() is None]
        return [error for job in ended if (error := job.result()) is not None]

    def cancel(self) -> None:
        """End those that are waiting or running."""
        for job in self.jobs:
            if not _result(job).exists():
                job.cancel(check=False)


class Joblib:
    """Jobs in joblib's processes on this machine; `n_jobs` at once, -1 for one a core."""

    def __init__(self, n_jobs: int) -> None:
        self.n_jobs = n_jobs
        self.results: list[str | None] = []
        self.problem: str | None = None
        self.thread: threading.Thread | None = None

    def submit(self, shares: Sequence[Share]) -> None:
        """All of them; joblib begins as many as it may."""
        self.results, self.problem = [], None
        inside = [replace(share, here=True) for share in shares]  # they can have no processes of their own
        self.thread = threading.Thread(target=self._run, args=(inside,), daemon=True)
        self.thread.start()

    def _run(self, shares: list[Share]) -> None:
        from joblib import Parallel, delayed

        try:
            self.results = Parallel(n_jobs=self.n_jobs, backend="loky")(delayed(share)() for share in shares)
        except Exception as error:  # a process that died ends them all
            self.problem = f"joblib: {type(error).__name__}: {str(error).splitlines()[0]}"

    def alive(self) -> int:
        """1 while any is waiting or running."""
        return int(self.thread is not None and self.thread.is_alive())

    def problems(self) -> list[str]:
        """What ended them all."""
        return [self.problem] if self.problem else []

    def errors(self) -> list[str]:
        """The bad input that they met."""
        return [error for error in self.results if error is not None]

    def cancel(self) -> None:
        """joblib's processes end with this one."""


def _one_machine(shares: Sequence[Share]) -> list[Share]:
    """Shares that have this machine's cores among them."""

    def workers(share: Share) -> int | str:
        if share.settings.workers != "auto" or torch.cuda.is_available():
            return share.settings.workers
        return max(1, worker_count("auto", "cpu") // len(shares))

    return [replace(share, settings=replace(share.settings, workers=workers(share))) for share in shares]


def _result(job: submitit.Job) -> Path:
    return job.paths.result_pickle


def _queued() -> set[str] | None:
    """The user's jobs that are waiting or running, or None where Slurm does not answer."""
    words = ["squeue", "--noheader", "--array", "--format=%i", "--user", getpass.getuser()]
    try:
        told = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return set(told.split())
