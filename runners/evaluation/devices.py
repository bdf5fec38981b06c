"""The devices that the processes of a run compute on, and the settings of PyTorch there."""

import ctypes
import os
import platform
import re
from pathlib import Path

import torch

from data.errors import InputError

NVIDIA = Path("/proc/driver/nvidia/gpus")  # has a folder for each GPU of this host, also for hidden ones


def configure_torch(device: str | torch.device, *, tf32: bool) -> torch.device:
    """Fix the threads, the precision and the algorithms, which change results from machine to machine.

    Returns the device; if `device` names several, the first one. TF32 multiplies with 10 bits of mantissa and
    exists on CUDA only. Each process uses one CPU thread: sums are then taken in the same order on any number
    of cores, and several processes use the cores better than several threads do.
    """
    torch.set_num_threads(1)
    _keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    chosen = devices_of(device)[0] if isinstance(device, str) else device
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # libraries that name no device take the current one
    elif tf32:
        raise InputError("tf32: expected a CUDA device, a CPU has no TF32")
    return chosen


def _keep_freed_memory() -> None:
    """Let glibc keep freed memory; otherwise each step of a fit requests the same pages again."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at its largest


def devices_of(asked: str, *, shard: int | None = None) -> list[torch.device]:
    """Return the devices of a run: the CPU, all visible CUDA devices, or the one that was asked for.

    "auto" is CUDA if there is a CUDA device. The jobs that submitit's local launcher starts all see the same
    GPUs, so each of them takes the GPU whose number is its `shard`.

    Raises InputError for a device that does not exist here. Raises it too if "auto" would silently be the CPU
    although this host has GPUs: their driver is too old for PyTorch, or a launcher hides them.
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
    """Return why PyTorch can use no GPU of this host; None if there is none or all are hidden on purpose."""
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        if "too old" in str(error):
            version = re.search(r"found version \d+", str(error))
            return (
                f"its driver ({version[0] if version else 'of unknown version'}) is too old for PyTorch "
                f"{torch.__version__}: update the driver, or install a PyTorch for its CUDA version"
            )
    if _is_local_job() and os.environ.get("CUDA_VISIBLE_DEVICES") == "" and NVIDIA.is_dir():
        return "the local launcher hides this host's GPUs: set hydra.launcher.gpus_per_node to their number"
    return None


def _is_local_job() -> bool:
    """Return whether submitit's local launcher has started this process."""
    return os.environ.get("SUBMITIT_EXECUTOR") == "local"
