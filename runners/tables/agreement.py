"""The agreement of a table with the order of the paper's results, as numbers and as a sentence."""

from dataclasses import dataclass

from runners.output import quantity


@dataclass(frozen=True)
class Agreement:
    """The agreement between the order of our results and the order of the paper's.

    `same`, `opposite` and `undecided` count the pairs of entries that differ by more than 5 points in the
    paper, by their order in our table. `figures` is the number of results that `correlation` compares.
    `correlation` is Spearman's, of our results with the paper's, and `low` and `high` bound its 95 %
    interval; all three are None if fewer than three results can be compared.
    """

    same: int
    opposite: int
    undecided: int
    figures: int
    correlation: float | None
    low: float | None
    high: float | None

    def text(self) -> str:
        """Return the agreement as a sentence for the legend of a table."""
        pairs = self.same + self.opposite + self.undecided
        order = (
            f"Agreement with the paper: of {quantity(pairs, 'pair')} of entries in one column that differ "
            "by more "
            f"than 5 points in the paper, our results have the same order in {self.same}, the opposite "
            "order in "
            f"{self.opposite} (both beyond chance), and no clear order in {self.undecided}"
        )
        if self.correlation is None:
            return order
        return (
            f"{order}. Spearman's rank correlation of our {self.figures} results with the paper's is "
            f"{self.correlation:.2f} (95 % interval {self.low:.2f} to {self.high:.2f})"
        )
