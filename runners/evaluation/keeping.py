"""Which purified images stay in the store: those that cost more to make again than to keep."""

from dataclasses import dataclass

COSTLY = 10.0  # seconds a megabyte of float32 images, from which they are kept
LITTLE = 64  # megabytes that the purified images of one cell may take in any case


@dataclass(frozen=True)
class Keeping:
    """Decides which purified images are kept after they are scored.

    This decides what lies in the store and nothing else: no record and no key depends on it, because "auto"
    goes by measured time.

    Args:
        rule: "all" keeps them, and makes again what the store lacks of them; "none" keeps no images; "auto"
            keeps what took COSTLY seconds a megabyte or more, and all images of cells with LITTLE megabytes.
        n: images of a cell.
    """

    rule: str = "all"
    n: int = 0

    @property
    def every(self) -> bool:
        """Whether purified images are made again if only they are missing."""
        return self.rule == "all"

    def keeps(self, seconds: float, size: int, *, held: int) -> bool:
        """Whether to keep images that take so many seconds each to make, and so many bytes each as float32.

        `held` is how many bytes an image takes with all that is kept beside it.
        """
        if self.rule != "auto":
            return self.every
        return self.n * held <= LITTLE * 1e6 or seconds >= COSTLY * size / 1e6
