"""Finds the batch that fits into memory by trying, since no rule predicts it."""

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
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # here the failed attempt's tensors are no longer held
    return parts, batch


def memory_ran_out(error: BaseException) -> bool:
    """PyTorch has a class for it on CUDA and only words on a CPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(
        word in str(error).lower() for word in WORDS
    )
