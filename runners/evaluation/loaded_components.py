"""The victims and purifiers that a process has loaded, and the guard around attacks and purifiers."""

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
    """Loads each victim and purifier once, and checks that attacks and purifiers leave the victims unchanged.

    Args:
        store: the store with the trained weights.
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
        """Return the victim or purifier with its weights, loaded once; a victim on this device."""
        key = component.key  # not the weights alone: a normalisation may differ
        if key not in self.loaded:
            with torch.random.fork_rng(devices=[]):  # a new network draws random weights first
                loaded = component.load(self.store)
            if isinstance(loaded, nn.Module):
                self.guard.watch(key, loaded.to(self.device))
            self.loaded[key] = loaded
        return self.loaded[key]

    @contextmanager
    def guarded(self, *victims: Component) -> Iterator[list[str]]:
        """Run attacks and purifiers inside, for at most `chunk_seconds`; see `Guard.over`.

        A changed victim is loaded again when it is needed.
        """
        for victim in victims:
            self.load(victim)
        keys = [victim.key for victim in victims]
        with self.guard.over(keys, self.loaded) as changed, limited(self.chunk_seconds):
            yield changed

    def release(self) -> None:
        """Drop the victims and purifiers, and free the memory that they and earlier work held."""
        self.loaded.clear()
        self.guard.loaded.clear()
        free()
