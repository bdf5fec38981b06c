"""Write docs/records.md from the record schema: python -m scripts.document_records"""

from pathlib import Path

from runners.app import CONFIGS
from runners.evaluation.schema import COLUMNS

PAGE = CONFIGS.parent / "docs" / "records.md"
HEAD = """# Record files

Every evaluated cell has one record file in `results/records/`: a Parquet file with one row per image, and
with the provenance of the cell as JSON in the file's metadata. `pandas.read_parquet` reads it;
`python -m runners.replay FILE` makes it again and compares. A replay compares all columns except those of
the kind *cost*.

This page is written by `python -m scripts.document_records` from `runners/evaluation/schema.py`.

| Column | Type | Unit | Kind | Meaning |
| --- | --- | --- | --- | --- |
"""


def text() -> str:
    """The whole page."""
    rows = (f"| `{c.name}` | {c.dtype} | {c.unit} | {c.kind} | {c.meaning} |" for c in COLUMNS)
    return HEAD + "\n".join(rows) + "\n"


def main(page: Path = PAGE) -> None:
    """Write the page."""
    page.write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
