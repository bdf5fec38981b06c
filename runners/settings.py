"""The settings of a run, checked."""

from dataclasses import dataclass

from data.errors import InputError


@dataclass(frozen=True)
class Settings:
    """How cells are run: what the subset is, where results lie, what computes them."""

    n: int
    seed: int
    split: str
    chunk: int
    store: str
    device: str
    tf32: bool
    workers: int | str
    budget_hours: float

    def __post_init__(self) -> None:
        for name in ("n", "seed", "chunk"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise InputError(f"{name}: expected a whole number, got {value!r}")
        if self.seed < 0:
            raise InputError(f"seed: expected 0 or more, got {self.seed}")
        if not isinstance(self.store, str) or not self.store:
            raise InputError(f"store: expected a folder, got {self.store!r}")
        if not isinstance(self.budget_hours, int | float) or not self.budget_hours > 0:
            raise InputError(f"budget_hours: expected hours above 0, got {self.budget_hours!r}")
        if not isinstance(self.tf32, bool):
            raise InputError(f"tf32: expected true or false, got {self.tf32!r}")

    @property
    def precision(self) -> str:
        """Of products in convolutions and matrices; part of what results depend on."""
        return "tf32" if self.tf32 else "float32"
