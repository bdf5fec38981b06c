"""Checks that attacks and purifiers leave victims and the process unchanged, and restores the process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from data.frozen import differences, touchable
from data.process_state import restored

UNCHANGED = "the victim, torch's settings and the global generators as they were"


@dataclass
class Guard:
    """Keeps victims with a copy of the state in which they were loaded.

    Args:
        device: the device whose global generator is watched besides that of the CPU.
    """

    device: torch.device
    loaded: dict[str, tuple[nn.Module, dict[str, Any]]] = field(default_factory=dict)

    def watch(self, name: str, victim: nn.Module) -> None:
        """Watch this victim for changes from now on."""
        self.loaded[name] = victim, touchable(victim)

    @contextmanager
    def over(self, names: Iterable[str], broken: dict[str, Any]) -> Iterator[list[str]]:
        """Check that the code inside leaves these victims and the process as they were.

        Yields a list that names at the end what has changed. The settings and generators are restored, also
        after an exception; a changed victim is removed from `broken`, so that it is loaded again.
        """
        with restored(self.device) as changed:
            try:
                yield changed
            finally:
                for name in set(names) & self.loaded.keys():
                    victim, before = self.loaded[name]
                    if changes := differences(before, touchable(victim, copied=False)):
                        changed.append(f"the victim ({', '.join(changes[:3])})")
                        del self.loaded[name], broken[name]


def change(changed: Iterable[str]) -> str:
    return f"a change of {', '.join(changed)}"
