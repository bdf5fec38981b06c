"""The files of a table, which are written together and can be checked to belong to one run."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from data.errors import InputError
from runners import untrusted
from runners.evaluation.records import to_parquet
from runners.files import write_together
from runners.tables import render

EMBEDDED = ("digits-photos", "digits-resnet8")
RECORDS = "-records.parquet"
HASHED = (".md", ".csv", ".tex", RECORDS)  # the files whose sha256 is in the JSON file
FILES = (*HASHED, ".json")
LONGEST = 60  # most characters of a file's name that list rows


def stem_of(choices: Mapping[str, str], *, only: Sequence[str] = (), added: Sequence[str] = ()) -> str:
    """Return the name of a table's files without the suffix.

    It names the table, the data set and victim unless they are the defaults, and the rows if they are not the
    table's own. The files of a partial table, or of one with added rows, thus never replace those of the
    whole table.
    """
    setting = tuple(choices[part] for part in ("dataset", "victim"))
    parts = [choices["table"], *(() if setting == EMBEDDED else setting)]
    for kind, labels in (("only", only), ("with", added)):
        if labels:
            parts += [kind, _short("-".join(labels))]
    return "-".join(part.replace("/", "-") for part in parts)


def _short(labels: str) -> str:
    name = re.sub(r"[^\w.=]+", "-", labels).strip("-")
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{_sha256(labels.encode())[:8]}"


def write(
    frame: pd.DataFrame, heading: render.Heading, stem: Path, records: pd.DataFrame | None = None
) -> list[Path]:
    """Write stem.md, .csv, .tex and .json, and -records.parquet if there are records; return their paths.

    The JSON file holds the text around the results, and the sha256 of the other files. If there are no
    records, the record file of an earlier run is removed.
    """
    contents = {
        ".md": render.markdown(frame, heading).encode(),
        ".csv": frame.to_csv(index=False).encode(),
        ".tex": render.latex(frame, heading).encode(),
    }
    if records is not None:
        contents[RECORDS] = to_parquet(records)
    summary = {
        **asdict(heading),
        "legend": render.legend(frame, heading),
        "files": {f"{stem.name}{suffix}": _sha256(content) for suffix, content in contents.items()},
    }
    contents[".json"] = json.dumps(summary, indent=1).encode()
    paths = {suffix: _beside(stem, suffix) for suffix in contents}
    write_together({paths[suffix]: content for suffix, content in contents.items()})
    if records is None:
        _beside(stem, RECORDS).unlink(missing_ok=True)
    return list(paths.values())


def check(csv: Path) -> None:
    """Raise InputError if the files beside a table's CSV file do not come from the run that made it.

    Files may be missing, but those that exist must have the sha256 that the JSON file states.
    """
    stem = csv.with_suffix("")
    beside, records = _beside(stem, ".json"), _beside(stem, RECORDS)
    if not beside.is_file():
        if records.is_file():
            raise InputError(f"{records}: expected {beside.name} beside it, got none; make the table again")
        return
    try:
        digests = untrusted.parsed(beside.read_bytes(), str(beside), {...: object}).get("files")
    except OSError as error:
        raise InputError(f"{beside}: cannot be read ({error}); make the table again") from error
    except InputError as error:
        raise InputError(f"{error}; make the table again") from error
    if not isinstance(digests, dict):
        raise InputError(
            f"{beside}: expected the sha256 of the table's files, got none; make the table again"
        )
    for path in (_beside(stem, suffix) for suffix in HASHED):
        if path.is_file() and digests.get(path.name) != _sha256(path.read_bytes()):
            raise InputError(
                f"{path}: expected the file of the run that made {beside.name}, got another; make the table "
                "again"
            )


def _beside(stem: Path, suffix: str) -> Path:
    return stem.parent / f"{stem.name}{suffix}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
