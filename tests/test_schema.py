"""The record schema describes what record files hold, and the page about it is current."""

from collections import Counter

from test_grid import cell, run

from runners.evaluation.records import from_parquet, to_parquet
from runners.evaluation.schema import COLUMNS, COSTS, DECISIONS, OF_CHUNK


def test_records_hold_the_columns_of_the_schema_with_their_types(tmp_path):
    (result,), _ = run(tmp_path / "store", [cell("attack=clean", "purifier=none")], n=3, audit="off")
    assert result.failed is None
    read = from_parquet(to_parquet(result.records))
    assert list(read.columns) == [column.name for column in COLUMNS]
    for column in OF_CHUNK:
        assert read[column.name].dtype == column.dtype, column.name


def test_every_column_is_stated_once_and_has_a_meaning():
    assert Counter(column.name for column in COLUMNS).most_common(1)[0][1] == 1
    assert all(column.meaning.endswith(".") for column in COLUMNS)
    assert {"craft_seconds", "purify_seconds", "purify_batch", "member_seconds"} == set(COSTS)
    assert {"clean_label", "adversarial_label", "purified_label", "correct"} <= set(DECISIONS)
