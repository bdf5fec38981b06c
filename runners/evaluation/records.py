"""Record files: Parquet with one row per image (schema.py), and their provenance as metadata."""

import io
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

PROVENANCE = b"purifybench"  # its key in the metadata of a Parquet file


def to_parquet(records: pd.DataFrame, provenance: Mapping[str, Any] | None = None) -> bytes:
    """Return records as Parquet bytes, with `provenance` as JSON in the file's metadata."""
    table, file = pa.Table.from_pandas(records, preserve_index=False), io.BytesIO()
    if provenance is not None:
        metadata = {PROVENANCE: json.dumps(provenance, sort_keys=True, allow_nan=False).encode()}
        table = table.replace_schema_metadata({**table.schema.metadata, **metadata})
    pq.write_table(table, file)
    return file.getvalue()


def from_parquet(content: bytes) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(content))
