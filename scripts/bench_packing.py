"""Measures how small a store keeps its images: python -m scripts.bench_packing STORE

Packs the content of every artefact of images anew, whatever form it has in the store, and counts the bytes
of the records. Writes results/bench/packing.csv, which scripts/scale.py reads.
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
    """A row a stage: bytes of float32 images, bytes as they are packed, CPU seconds to pack and to unpack."""
    rows = []
    for stage in STAGES:
        images = plain = small = 0
        pack = unpack = 0.0
        for entry in store.files(stage):
            content = content_of(Path(entry.path))
            begin = time.process_time()
            made = packing.packed(content)  # which unpacks too, to verify
            middle = time.process_time()
            if made is not None:
                packing.unpacked(made)
            unpack, pack = unpack + time.process_time() - middle, pack + middle - begin
            images += len(safetensors.torch.load(content)["images"])
            plain, small = plain + len(content), small + len(made or content)
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
    """Measure, write, print."""
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(f"expected the folder of a store, got {' '.join(sys.argv[1:]) or 'nothing'}")
    frame = measured(Store(sys.argv[1])).round(3)
    PATH.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(PATH, index=False)
    sys.stdout.write(f"{frame.to_string(index=False)}\nwritten: {PATH}\n")


if __name__ == "__main__":
    main()
