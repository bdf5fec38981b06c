"""The state of trainings that can be stopped and resumed."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

SECONDS = 60  # time between checkpoints; no result depends on it


class Checkpoint(Protocol):
    """A place that keeps the state from which a stopped training continues."""

    def load(self) -> Mapping[str, Tensor] | None:
        """Return the state that was saved last, or None."""
        ...

    def save(self, state: dict[str, Tensor]) -> None:
        """Replace the saved state."""
        ...


def state_of(
    step: int, network: nn.Module, optimiser: torch.optim.Optimizer, generator: torch.Generator
) -> dict[str, Tensor]:
    """Return the state after `step` steps on which all remaining steps depend."""
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    for i, moments in optimiser.state_dict()["state"].items():
        state |= {f"optimiser.{i}.{name}": value for name, value in moments.items()}
    random = {"generator": generator.get_state(), "dropout": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["dropout_on_cuda"] = torch.cuda.get_rng_state()
    return state | random | {"step": torch.tensor(step)}


def resume(
    saved: Mapping[str, Tensor] | None,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
) -> int:
    """Restore a saved state; return the number of steps that are already done."""
    if saved is None:
        return 0
    prefix = "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in saved.items() if k.startswith(prefix)})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in saved.items():
        if name.startswith("optimiser."):
            _, i, kind = name.split(".")
            moments.setdefault(int(i), {})[kind] = value
    optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})
    generator.set_state(saved["generator"])
    torch.set_rng_state(saved["dropout"])
    if "dropout_on_cuda" in saved and torch.cuda.is_available():
        torch.cuda.set_rng_state(saved["dropout_on_cuda"])
    return int(saved["step"])
