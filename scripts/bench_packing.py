"""Measures the size of the packed images of a store: python -m scripts.bench_packing STORE

The content of every artefact of images is packed again, whatever form it has in the store, and the bytes of
the records are counted. The results are written to results/bench/packing.csv, which scripts/scale.py reads.
"""

import sys
import time
from pathlib import Path

import pandas as pd
import safetensors.torch

from runners.evaluation.records import from_parquet
from runners.store import packing
from runners.store.artifact import content_of
from runners.store.store import Store

PATH = Path("results/bench/packing.csv")
STAGES = ("clean", "adversarial", "purified")


def measured(store: Store) -> pd.DataFrame:
    """Return a row for each stage: bytes as float32, packed bytes, and CPU time to pack and to unpack."""
    rows = []
    for stage in STAGES:
        images = plain = small = 0
        pack = unpack = 0.0
        for entry in store.files(stage):
            content = content_of(Path(entry.path))
            begin = time.process_time()
            compact = packing.packed(content)  # this also unpacks, to verify
            middle = time.process_time()
            if compact is not None:
                packing.unpacked(compact)
            unpack, pack = unpack + time.process_time() - middle, pack + middle - begin
            images += len(safetensors.torch.load(content)["images"])
            plain, small = plain + len(content), small + len(compact or content)
        if images:
            row = {"stage": stage, "images": images, "bytes": plain, "packed": small, "ratio": small / plain}
            rows.append(
                row | {"ms a MB to pack": 1e9 * pack / plain, "ms a MB to read": 1e9 * unpack / plain}
            )
    files = [Path(entry.path) for entry in store.files("records")]
    count = sum(len(from_parquet(content_of(path))) for path in files)
    if count:
        rows.append({"stage": "records", "images": count, "packed": sum(p.stat().st_size for p in files)})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure the store, and write and print the rows."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"expected the folder of a store, got {' '.join(sys.argv[1:]) or 'nothing'}")
    frame = measured(Store(sys.argv[1])).round(3)
    PATH.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(PATH, index=False)
    sys.stdout.write(f"{frame.to_string(index=False)}\nwritten: {PATH}\n")


if __name__ == "__main__":
    main()
