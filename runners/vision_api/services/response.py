"""An answer of a vision API, and the errors that take its place."""

from dataclasses import dataclass

from data.errors import InputError


class TryAgainError(Exception):
    """Raised if an attempt failed for a temporary reason.

    `after` is the number of seconds after which the service asked to be called again, or None.
    """

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class ServiceError(RuntimeError):
    """Raised if a service gave no answer. What needed it fails; an error never counts as an answer."""


class RefusedError(ServiceError):
    """Raised if the service refuses the caller: bad or expired credentials, or an exhausted quota."""


class CapError(ServiceError):
    """Raised if all calls that the user allows were made."""


@dataclass
class Calls:
    """The number of calls that a service may get in this run, and the number that it got.

    Every attempt counts, including those that fail.
    """

    cap: int
    spent: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.cap, int) or isinstance(self.cap, bool) or self.cap < 1:
            raise InputError(f"calls: expected a whole number of at least 1, got {self.cap!r}")

    def spend(self) -> None:
        """Count one more call. Raises CapError without counting it if none is left."""
        if self.spent >= self.cap:
            raise CapError(
                f"the cap of calls={self.cap} is spent; the answers are kept, and the same command goes on "
                "from there with as many calls again"
            )
        self.spent += 1


@dataclass(frozen=True)
class LabelResponse:
    """The labels of an image, best first and each once, and their scores.

    `model` is the version of the service's model if the service names one.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    model: str = ""

    @classmethod
    def ranked(cls, found: list[tuple[str, float]], most: int, model: str = "") -> "LabelResponse":
        """Return the `most` labels with the highest scores; equal scores keep the service's order."""
        best: dict[str, float] = {}
        for name, score in sorted(found, key=lambda pair: -pair[1]):
            best.setdefault(name, float(score))
        kept = list(best.items())[:most]
        return cls(tuple(name for name, _ in kept), tuple(score for _, score in kept), model)
