"""Finds the batch size that fits into memory by trying, since no rule predicts it."""

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
)  # fmt: skip; the last one is oneDNN's, which does not state the reason


def within_memory(work: Callable[[slice], T], count: int, batch: int) -> tuple[list[T], int]:
    """Run `work` on slices of at most `batch` of `count` items; return the results and the final batch size.

    If memory runs out, the batch is halved and the work continues with the remaining items. The error is
    raised again if a single item is too large.
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
        free()  # at this point the tensors of the failed attempt are no longer referenced
    return parts, batch


def memory_ran_out(error: BaseException | None) -> bool:
    """Return whether the error, or an error in its context, says that memory ran out.

    PyTorch has a class for this error on CUDA, and only a message on a CPU. If memory runs out while a CUDA
    graph is captured, the end of the capture fails in turn, and only the error's context tells why.
    """
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


def free() -> None:
    """Return unused cached memory to the device.

    Tensors in reference cycles are collected first, since the cache can only return memory that is not in
    use.
    """
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
