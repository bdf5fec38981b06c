"""How well a table repeats the order of the paper's figures: the numbers, and a sentence that states them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Agreement:
    """Pairs of entries in a column that the paper separates by more than 5 points, by how ours are ordered.

    `correlation` is Spearman's, of all our figures with the paper's, and `low` and `high` bound its 95 %
    interval; they are None where fewer than three figures can be compared.
    """

    same: int
    opposite: int
    undecided: int
    figures: int
    correlation: float | None
    low: float | None
    high: float | None

    def text(self) -> str:
        """One sentence for the legend of a table."""
        pairs = self.same + self.opposite + self.undecided
        said = (
            f"Agreement with the paper: it separates {pairs} pairs of entries in a column by more than 5 "
            f"points; ours are ordered the same way in {self.same}, the other way in {self.opposite}, each "
            f"beyond chance, and {self.undecided} are undecided"
        )
        if self.correlation is None:
            return said
        return (
            f"{said}. Spearman's rank correlation of {self.figures} figures with the paper's: "
            f"{self.correlation:.2f}, 95 % interval {self.low:.2f} to {self.high:.2f}"
        )
