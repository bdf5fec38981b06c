"""Training that is repeatable on one kind of CPU, and libraries that draw from NumPy's global numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

# Threads change the order of floating-point sums, so training always uses the same number of them, and two
# suit a laptop. The kind of CPU changes that order too, which nothing here can prevent.
THREADS = 2


@contextmanager
def repeatable(
    network: nn.Module, seed: int, device: torch.device | None = None, *, threads: int = THREADS
) -> Iterator[None]:
    """Draw the network's weights anew from `seed`, and train it within: what torch draws globally is seeded
    and then put back, and so is the number of threads. A network that has a way of its own to draw them all
    (`reset_parameters`) draws them so. `device` is where it is trained, if not on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cuda = [torch.cuda.current_device()] if device is not None and device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            whole = hasattr(network, "reset_parameters")
            for module in [network] if whole else network.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """NumPy's global random numbers start from `seed` within, and are put back after."""
    state = np.random.get_state()
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
    try:
        yield
    finally:
        np.random.set_state(state)
