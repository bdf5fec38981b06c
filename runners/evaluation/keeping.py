"""The rule for which purified images stay in the store: those that cost more to make again than to keep."""

from dataclasses import dataclass

COSTLY = 10.0  # seconds per megabyte of float32 images; those that took longer are kept
LITTLE = 64  # megabytes that the purified images of one cell may take in any case


@dataclass(frozen=True)
class Keeping:
    """Decides which purified images are kept after they are scored.

    Only the content of the store depends on this decision, and no record or key does, because "auto" uses
    measured time.

    Args:
        rule: "all" keeps the images, and makes those again that the store lacks; "none" keeps no images;
            "auto" keeps images that took at least COSTLY seconds per megabyte, and all images of a cell that
            needs at most LITTLE megabytes.
        n: the number of images of a cell.
    """

    rule: str = "all"
    n: int = 0

    @property
    def every(self) -> bool:
        """Whether purified images are made again if only they are missing."""
        return self.rule == "all"

    def keeps(self, seconds: float, size: int, *, held: int) -> bool:
        """Return whether to keep images that each take so many seconds to make and so many bytes as float32.

        `held` is how many bytes an image takes with everything that is kept beside it.
        """
        if self.rule != "auto":
            return self.every
        return self.n * held <= LITTLE * 1e6 or seconds >= COSTLY * size / 1e6
