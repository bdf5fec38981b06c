"""Finds the batch that fits into memory by trying, since no rule predicts it."""

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

log = logging.getLogger(__name__)
T = TypeVar("T")
WORDS = (
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "alloc_failed",
    "could not create a primitive",
)  # fmt: skip; oneDNN's, whose reason it keeps to itself


def within_memory(work: Callable[[slice], T], count: int, batch: int) -> tuple[list[T], int]:
    """Do `work` on slices of at most `batch` of `count` items; the results, and the batch in the end.

    Where memory runs out the batch is halved and the work goes on; what is done stays done. Raises
    what was raised where one item alone is too much.
    """
    parts: list[T] = []
    done = 0
    while done < count:
        part = slice(done, min(done + batch, count))
        try:
            parts.append(work(part))
            done = part.stop
        except (MemoryError, RuntimeError) as error:
            if batch == 1 or not memory_ran_out(error):
                raise
            log.warning("out of memory with %d images at once: going on with %d", batch, batch // 2)
            batch //= 2
        else:
            continue
        free()  # here the failed attempt's tensors are no longer held
    return parts, batch


def memory_ran_out(error: BaseException | None) -> bool:
    """Whether the error, or one during whose handling it was raised, says so. PyTorch has a class for it on
    CUDA and only words on a CPU.

    Where memory ends while a CUDA graph is captured, the end of the capture fails in turn, and only the
    error's context tells why.
    """
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def free() -> None:
    """Give back to the device what no tensor holds. Tensors in reference cycles are collected first, since
    the cache can only return memory that is not in use."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
