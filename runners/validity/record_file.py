"""A cell's record file: its records and their provenance, which may come from anyone."""

import re
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import InputError
from runners import untrusted
from runners.evaluation.cell import PARTS
from runners.evaluation.records import PROVENANCE
from runners.untrusted import targets
from runners.validity.provenance import CODE, FORMAT, Facts, of_ids

SHA256 = re.compile(r"[0-9a-f]{64}")
NAME = re.compile(r"(?!.*\.\.)[\w.+-]+(/[\w.+-]+)*")  # a config's name, used in file names
NEEDED: dict[str, Any] = {  # the shape of the provenance, as runners/untrusted.py reads it
    **CODE,
    "key": SHA256,
    "names": dict.fromkeys(PARTS, NAME),
    "configs": {part: {"_target_": str} for part in PARTS},
    "command": str,
    "component_versions": {...: (int, str)},
    "scoring": int,
    "settings": {},
    "precision": re.compile("float32|tf32"),
    "weights": {...: {"sha256": (str, NoneType), "trained": (dict, NoneType)}},
    "image_ids_sha256": SHA256,
    "device": {"type": re.compile("cpu|cuda"), "name": str},
    "time": str,
    "made_elsewhere": [{"stage": str, "chunks": int, "by": (dict, str)}],
}


@dataclass(frozen=True)
class RecordFile:
    """The records of a cell in a file, with their provenance."""

    path: Path
    records: pa.Table
    provenance: Facts

    def __post_init__(self) -> None:
        if lacking := [name for name in NEEDED if name not in self.provenance]:
            raise InputError(
                f"{self.path}: its provenance lacks {', '.join(lacking)}; make the records again"
            )
        self._check()
        with untrusted.readable(f"{self.path}: id"):
            ids = of_ids(self.records["id"].to_pylist())
        if ids != self["image_ids_sha256"]:
            raise InputError(
                f"{self.path}: damaged: expected image ids of sha256 {self['image_ids_sha256']}, got {ids}"
            )

    def _check(self) -> None:
        """Raise InputError if the provenance has another shape or names anything except our components."""
        untrusted.check_shape(self.provenance, NEEDED, f"{self.path}: provenance")
        for where, part in targets(self.provenance):
            untrusted.component(part["_target_"], f"{self.path}: {where}")
        for where, weights in self["weights"].items():
            if weights["trained"] is not None and weights["trained"].get("stage") != "weights":
                raise InputError(f"{self.path}: weights.{where}.trained: expected the stage weights")

    def __getitem__(self, name: str) -> Any:
        return self.provenance[name]

    @classmethod
    def read(cls, path: Path) -> "RecordFile":
        """Return the records of a file, which may come from anyone.

        Raises InputError as `opened` does, and for a provenance that names anything except this project's
        components.
        """
        return cls(path, *opened(path))


def opened(path: Path) -> tuple[pa.Table, Facts]:
    """Return the records and the provenance of a file that may come from anyone, as plain data.

    Raises InputError for a file that is missing or damaged, that has no provenance, or whose provenance is
    anything except plain data.
    """
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: expected a Parquet file of records, got {reason}") from error
    content = (table.schema.metadata or {}).get(PROVENANCE)
    if content is None:
        raise InputError(
            f"{path}: holds no provenance, so it cannot be made again from itself; python -m "
            "runners.evaluate and runners.table write a file with it for each cell"
        )
    for name, value in table.schema.metadata.items():
        if name != PROVENANCE:
            untrusted.check_text(value.decode(errors="replace"), f"{path}: metadata {name!r:.80}")
    provenance = untrusted.parsed(content, f"{path}: provenance")
    if not isinstance(provenance, dict) or provenance.get("format") != FORMAT:
        got = provenance.get("format") if isinstance(provenance, dict) else type(provenance).__name__
        raise InputError(f"{path}: provenance of another format: expected {FORMAT}, got {got}")
    return table, provenance
