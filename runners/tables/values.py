"""The values behind the entries of a table: one for each image, from the table's frame and records."""

from collections.abc import Mapping

import pandas as pd

from runners.evaluation.metrics import survived
from runners.tables.figures import per_image, under_all
from runners.tables.frame import METRICS, RESULTS

# The attacks that the frame names for an entry that combines the other entries of its row.
COMBINED = ("average", "worst")


class Values:
    """The values behind the entries of a table, by their places in its frame.

    Args:
        frame: the table's frame, with one row for each entry.
        records: the records of all cells of the table; `command` tells which cell a record is of.
    """

    def __init__(self, frame: pd.DataFrame, records: pd.DataFrame) -> None:
        self.frame = frame
        self.cells: Mapping[str, pd.DataFrame] = dict(list(records.groupby("command")))

    def of(self, place: int) -> pd.Series | None:
        """Return one value for each image, indexed by id, or None if the records do not give the entry.

        The values are true or false for an accuracy, shares in [0, 1] for an average of accuracies, and
        numbers otherwise.
        """
        entry = self.frame.iloc[place]
        if entry.metric not in RESULTS or pd.isna(entry.value):
            return None
        if entry.attack in COMBINED:
            return self._combined(entry)
        records = self.cells.get(entry.command)
        if records is None:
            return None
        if pd.notna(entry.queries):
            values = survived(records.path, eps=entry.eps_255 / 255, queries=int(entry.queries))
        else:
            values = records[METRICS[entry.metric]]
        return values.set_axis(records.id)

    def _combined(self, entry: pd.Series) -> pd.Series | None:
        """Return the average or the AND of a row's entries of the same metric."""
        frame = self.frame
        in_row = (frame.row == entry.row) & (frame.metric == entry.metric) & ~frame.attack.isin(COMBINED)
        parts = [self.of(place) for place in range(len(frame)) if in_row.iloc[place]]
        if not parts or any(part is None for part in parts):
            return None
        if entry.attack == "worst":
            return under_all(parts)
        return per_image(parts).set_axis(parts[0].index)
