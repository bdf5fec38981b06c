"""The state that all code of a process shares: torch's settings, and the global random number generators."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.backends import cuda, cudnn


def _flag(backend: Any, name: str) -> tuple[Callable[[], Any], Callable[[Any], None]]:
    return lambda: getattr(backend, name), lambda value: setattr(backend, name, value)


SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], None]]] = {  # functions that read and set each
    "torch's default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "torch's grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "torch's number of threads": (torch.get_num_threads, torch.set_num_threads),
    "torch's deterministic algorithms": (
        torch.are_deterministic_algorithms_enabled,
        torch.use_deterministic_algorithms,
    ),
    "cudnn.enabled": _flag(cudnn, "enabled"),
    "cudnn.benchmark": _flag(cudnn, "benchmark"),
    "cudnn.deterministic": _flag(cudnn, "deterministic"),
    "cudnn.allow_tf32": _flag(cudnn, "allow_tf32"),
    "cuda.matmul.allow_tf32": _flag(cuda.matmul, "allow_tf32"),
}


def settings() -> dict[str, Any]:
    """Return the values of torch's settings by name."""
    return {name: read() for name, (read, _) in SETTINGS.items()}


def generators(device: torch.device) -> dict[str, Any]:
    """Return the states of the global generators, including CUDA's if `device` is a CUDA device."""
    name, keys, place, *rest = np.random.get_state()
    states = {
        "torch's global generator": torch.get_rng_state().numpy().tobytes(),
        "NumPy's global generator": (name, keys.tobytes(), place, *rest),
        "Python's global generator": random.getstate(),
    }
    if device.type == "cuda":
        states["CUDA's global generator"] = torch.cuda.get_rng_state(device).numpy().tobytes()
    return states


@contextmanager
def restored(device: torch.device) -> Iterator[list[str]]:
    """Restore the settings and the generators at the end, also after an exception.

    Yields a list, which at the end has the names of those that had changed.
    """
    before, drawn = settings(), generators(device)
    numpys, torchs = np.random.get_state(), torch.get_rng_state()
    cudas = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    changed: list[str] = []
    try:
        yield changed
    finally:
        now = settings()
        for name, (_, write) in SETTINGS.items():
            if now[name] != before[name]:
                changed.append(name)
                write(before[name])
        changed += [name for name, state in generators(device).items() if state != drawn[name]]
        np.random.set_state(numpys)
        torch.set_rng_state(torchs)
        random.setstate(drawn["Python's global generator"])
        if cudas is not None:
            torch.cuda.set_rng_state(cudas, device)
