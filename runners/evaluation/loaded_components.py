"""The victims and purifiers that a process has loaded, and the code of others that runs beside them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from data.memory import free
from runners.evaluation.component import Component
from runners.evaluation.guard import Guard
from runners.evaluation.time_limit import limited
from runners.store.store import Store


@dataclass
class LoadedComponents:
    """Loads each victim and purifier once, and sees that attacks and purifiers leave the victims unchanged.

    Args:
        store: where trained weights lie.
        device: the device of the victims.
        chunk_seconds: how long an attack or a purifier may take; None sets no limit.
    """

    store: Store
    device: torch.device
    loaded: dict[str, Any] = field(default_factory=dict, kw_only=True)
    chunk_seconds: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.guard = Guard(self.device)

    def load(self, component: Component) -> Any:
        """The victim or purifier with its weights, loaded once; a victim on this device."""
        key = component.key  # not the weights alone: a normalisation may differ
        if key not in self.loaded:
            with torch.random.fork_rng(devices=[]):  # new networks draw weights before theirs are loaded
                loaded = component.load(self.store)
            if isinstance(loaded, nn.Module):
                self.guard.watch(key, loaded.to(self.device))
            self.loaded[key] = loaded
        return self.loaded[key]

    @contextmanager
    def guarded(self, *victims: Component) -> Iterator[list[str]]:
        """Where attacks and purifiers run, for `chunk_seconds` at most; see `Guard.over`. A changed victim is
        loaded again when needed."""
        for victim in victims:
            self.load(victim)
        keys = [victim.key for victim in victims]
        with self.guard.over(keys, self.loaded) as changed, limited(self.chunk_seconds):
            yield changed

    def release(self) -> None:
        """Let go of victims and purifiers, and give back the memory that they and earlier work held."""
        self.loaded.clear()
        self.guard.loaded.clear()
        free()
