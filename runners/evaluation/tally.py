"""How far the cells of a run are."""

from collections.abc import Container, Mapping, Sequence


class Tally:
    """Counts the cells and images of a run that are done. An image counts once in each cell.

    Args:
        cells: for each cell, the keys of its chunks of records and the number of images in each chunk.
        stored: keys of the chunks that are done at the start.
    """

    def __init__(self, cells: Sequence[Mapping[str, int]], stored: Container[str]) -> None:
        self.missing = [{key: size for key, size in chunks.items() if key not in stored} for chunks in cells]
        self.images = sum(sum(chunks.values()) for chunks in cells)
        self.images_done = self.images - sum(sum(chunks.values()) for chunks in self.missing)

    def finish(self, key: str) -> None:
        """Count a chunk as done; a chunk that is done already changes nothing."""
        self.images_done += sum(chunks.pop(key, 0) for chunks in self.missing)

    @property
    def cells_done(self) -> int:
        """How many cells miss no chunk."""
        return sum(not chunks for chunks in self.missing)
