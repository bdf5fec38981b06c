"""The interface of loggers."""

from collections.abc import Sequence
from pathlib import Path


class Logger:
    """Base class of loggers. It logs nothing itself, which is what `logger=none` asks for."""

    def log(self, records: Sequence[Path], *, table: str = "", csv: Path | None = None) -> None:
        """Log cells and the table that was made from them. No error is raised.

        Args:
            records: the cells' record files.
            table: the name of the table's config, such as ddip/table1; empty if the cells belong to no table.
            csv: the table's CSV file; the table's other files are in the same folder.
        """
