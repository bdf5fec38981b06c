"""One answer of a vision API, and what may keep it from coming."""

from dataclasses import dataclass

from data.errors import InputError


class TryAgainError(Exception):
    """An attempt that failed for a passing reason; `after` seconds if the service said when to come back."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


class ServiceError(RuntimeError):
    """A service gave no answer; what needed it fails, and is never counted as an answer."""


class RefusedError(ServiceError):
    """The service does not let this caller in: bad or expired credentials, a quota that is spent."""


class CapError(ServiceError):
    """The calls that the user allows are spent."""


@dataclass
class Calls:
    """How often a service may be asked in this run, and was; every attempt counts, also one that fails."""

    cap: int
    spent: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.cap, int) or isinstance(self.cap, bool) or self.cap < 1:
            raise InputError(f"calls: expected a whole number of at least 1, got {self.cap!r}")

    def spend(self) -> None:
        """One more. Raises CapError, having spent nothing, where none is left."""
        if self.spent >= self.cap:
            raise CapError(
                f"the cap of calls={self.cap} is spent; the answers are kept, and the same command goes on "
                "from there with as many calls again"
            )
        self.spent += 1


@dataclass(frozen=True)
class LabelResponse:
    """Labels, best first, each once; their scores; the version of its model where the service names one."""

    labels: tuple[str, ...]
    scores: tuple[float, ...]
    model: str = ""

    @classmethod
    def ranked(cls, found: list[tuple[str, float]], most: int, model: str = "") -> "LabelResponse":
        """The `most` labels with the highest scores; of equal ones the service's first."""
        best: dict[str, float] = {}
        for name, score in sorted(found, key=lambda pair: -pair[1]):
            best.setdefault(name, float(score))
        kept = list(best.items())[:most]
        return cls(tuple(name for name, _ in kept), tuple(score for _, score in kept), model)
