"""Which devices the processes of a run compute on, and how PyTorch computes there."""

import ctypes
import os
import platform
import re
from pathlib import Path

import torch

from data.errors import InputError

NVIDIA = Path("/proc/driver/nvidia/gpus")  # a folder for each GPU of this host, whoever may use it


def configure_torch(device: str | torch.device, *, tf32: bool) -> torch.device:
    """Fix what changes results from machine to machine: threads, precision, algorithm choice.

    TF32 multiplies with 10 bits of mantissa, on CUDA only. Of several devices it is the first. One thread
    a process on a CPU: sums are then taken in one order however many cores there are, and processes
    use the cores better than threads do.
    """
    torch.set_num_threads(1)
    _keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    place = devices_of(device)[0] if isinstance(device, str) else device
    if place.type == "cuda":
        torch.cuda.set_device(place)  # libraries that name no device take the current one
    elif tf32:
        raise InputError("tf32: expected a CUDA device, a CPU has no TF32")
    return place


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed: else each step of a fit asks the kernel anew for the same pages."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at its largest


def devices_of(asked: str, *, shard: int | None = None) -> list[torch.device]:
    """The devices of a run: the CPU, every CUDA device that is visible, or the one that was asked for.

    "auto" is CUDA where there is any. Jobs that submitit's local launcher has started all see the same GPUs,
    so each takes the one of its number `shard`.

    Raises InputError for a device that is not here, and where "auto" would silently be the CPU though this
    host has GPUs: a driver that is too old for PyTorch, or a launcher that hides them.
    """
    match = re.fullmatch(r"(auto|cpu|cuda)(?::(\d+))?", asked) if isinstance(asked, str) else None
    if match is None or (match[2] and match[1] != "cuda"):
        raise InputError(f"device: expected auto, cpu, cuda or cuda:N, got {asked!r}")
    kind, index = match.groups()
    if kind == "cpu":
        return [torch.device("cpu")]
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        if (reason := _why_none()) is not None:
            raise InputError(f"device={asked}: expected a CUDA device, but {reason}; or set device=cpu")
        if kind == "cuda":
            raise InputError(f"device={asked}: expected a CUDA device, but PyTorch sees none here")
        return [torch.device("cpu")]
    if index is not None and int(index) >= count:
        raise InputError(f"device: expected cuda:0 to cuda:{count - 1}, got {asked}")
    if index is None and shard is not None and _is_local_job():
        index = shard % count
    indices = range(count) if index is None else [int(index)]
    return [torch.device("cuda", i) for i in indices]


def _why_none() -> str | None:
    """Why PyTorch can use none of the GPUs of this host; None where it has none, or they were hidden on
    purpose."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        if "too old" in str(error):
            found = re.search(r"found version \d+", str(error))
            return (
                f"its driver ({found[0] if found else 'of unknown version'}) is too old for PyTorch "
                f"{torch.__version__}: update the driver, or install a PyTorch for its CUDA version"
            )
    if _is_local_job() and os.environ.get("CUDA_VISIBLE_DEVICES") == "" and NVIDIA.is_dir():
        return "the local launcher hides this host's GPUs: set hydra.launcher.gpus_per_node to their number"
    return None


def _is_local_job() -> bool:
    """Whether submitit's local launcher has started this process."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "local"
