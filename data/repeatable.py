"""Repeatable training on one kind of CPU, and seeding for libraries that use NumPy's global generator."""

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
    """Draw the network's weights anew from `seed`, and make the training inside the context repeatable.

    Torch's global generators are seeded and the number of threads is set; both are restored at the end. A
    network that has its own `reset_parameters` draws all its weights by it. `device` is the device of the
    training, if it is not the CPU.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        cuda = [torch.cuda.current_device()] if device is not None and device.type == "cuda" else []
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            has_reset = hasattr(network, "reset_parameters")
            for module in [network] if has_reset else network.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
            yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def numpy_seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's global generator with `seed`, and restore its state at the end."""
    state = np.random.get_state()
    np.random.seed([seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF])
    try:
        yield
    finally:
        np.random.set_state(state)
