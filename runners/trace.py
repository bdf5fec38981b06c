"""Watch the optimisation behind a result: run a fitted purifier again on a few images of one cell.

    python -m runners.trace record=1a2b3c4d
    python -m runners.trace record=1a2b3c4d images=4
    python -m runners.trace record=results/records/NAME.parquet

The seeds are the recorded ones. The command stores the victim's confidences along the optimisation (DDIP's
Fig. 10) and reconstructions on the way (RIDE's Fig. 6), and make report shows them.
"""

import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from data.errors import InputError
from purifiers.ddip import DDIP
from purifiers.fitting.trace import Iterate, Readout, TracePurifier
from runners import app, untrusted
from runners.evaluation.devices import configure_torch
from runners.evaluation.stages import Worker
from runners.evaluation.weights import load_or_train
from runners.files import folder, writable, write_whole
from runners.replay import words
from runners.report.pictures import as_bytes
from runners.store.artifact import place
from runners.store.store import Store
from runners.validity.record_file import RecordFile
from runners.validity.recorded_cell import cell_of, check_code, device_for, find

MAPPED = 200  # reconstructions that the victim classifies, unless the purifier chooses them
STRIP = 8  # reconstructions that are kept as images
ON_BOUNDARY = 4  # newest on-boundary images that are kept


@dataclass
class Watch:
    """Records the iterates that a readout is given."""

    readout: Readout
    victim: nn.Module
    mapped: Callable[[int], bool]  # whether the victim classifies the reconstruction of a step
    kept: frozenset[int]
    steps: list[int] = field(default_factory=list)
    confidence: list[Tensor] = field(default_factory=list)  # (B, classes), by mapped step
    ssim: list[Tensor] = field(default_factory=list)  # (B,)
    strip: list[Tensor] = field(default_factory=list)  # (B, C, H, W)
    crossings: list[tuple[int, int]] = field(default_factory=list)  # image, step

    def see(self, iterate: Iterate) -> None:
        """Pass the iterate to the readout, then record it."""
        before = self._found()
        self.readout.see(iterate)
        if self.mapped(iterate.step):
            self.steps.append(iterate.step)
            self.confidence.append(_sure(self.victim, iterate.images))
            self.ssim.append(iterate.ssim.cpu())
        if iterate.step in self.kept:
            self.strip.append(iterate.images.cpu())
        if before is not None:
            crossed = (self._found() > before).nonzero().flatten().tolist()
            self.crossings += [(i, iterate.step) for i in crossed]

    def _found(self) -> Tensor | None:
        """Return how many crossings each image has, or None if the readout does not count them."""
        counts = getattr(self.readout, "found", None)
        return None if counts is None else counts.clone()


def main(config: DictConfig) -> None:
    """Record the traces of a few images of one cell."""
    recorded = RecordFile.read(find(config.record, folder(config.records, "records")))
    check_code(recorded)
    with untrusted.readable(str(recorded.path)):
        watch_cell(recorded, config)


def watch_cell(recorded: RecordFile, config: DictConfig) -> None:
    """Run the purifier of a recorded cell again, watch it, and write a file with what was seen."""
    records = chosen(recorded.records.to_pandas(), config.images)
    cell, store = cell_of(recorded, folder(config.data_dir, "data_dir")), Store(folder(config.store, "store"))
    device = configure_torch(device_for(recorded, config.device), tf32=recorded["precision"] == "tf32")
    worker = Worker(store, device, recorded["precision"])
    purifier = worker.load(load_or_train(cell.configs["purifier"], store))
    if not isinstance(purifier, TracePurifier):
        raise InputError(
            f"record: expected a cell of a purifier that fits a network to each image, got {cell.label}"
        )
    victim = worker.load(load_or_train(cell.configs["victim"], store))
    adversarial, stored = (_images(store, stage, records) for stage in ("adversarial", "purified"))
    if adversarial is None:
        raise InputError(f"store {store.root}: lacks the attacked images of this record; name another store=")
    with app.console.status(f"watching {len(records)} images"):
        watch, final = watched(purifier, adversarial.to(device), records.seed.tolist(), victim)
    path = writable(folder(config.traces, "traces")) / f"{recorded['key'][:8]}.npz"
    description, arrays = written(watch, final, records, victim, purifier)
    description |= {"key": recorded["key"], "cell": cell.label, "off": None}
    decided = _sure(victim, final).argmax(1).tolist()
    equal = sum(a == b for a, b in zip(decided, records.purified_label, strict=True))
    off = f"recorded images were not kept (keep_purified=all keeps them); {equal} of {len(records)} decisions"
    off += " are the recorded ones"
    if stored is not None:
        description["off"] = float((final.cpu() - stored).abs().max())
        off = f"the results differ from the recorded ones by at most {description['off']:.2g}"
    content = io.BytesIO()
    np.savez_compressed(content, told=np.array(json.dumps(description)), **arrays)
    write_whole(path, content.getvalue())
    app.tell(f"{path}: {len(records)} images of {cell.label}; {off}")


def chosen(records: pd.DataFrame, count: int) -> pd.DataFrame:
    """Return `count` records, beginning with those that the attack misled.

    They alternate between images that the purifier mended and images that it did not. Raises InputError
    unless `count` is a whole number, at least 1.
    """
    if not isinstance(count, int) or count < 1:
        raise InputError(f"images: expected at least 1, got {count!r}")
    misled = records.adversarial_label != records.label
    turn = records.groupby([misled, records.correct]).cumcount()
    order = pd.DataFrame({"other": ~misled, "turn": turn, "wrong": ~records.correct}).sort_values(
        ["other", "turn", "wrong"], kind="stable"
    )
    return records.loc[order.index].head(count)


def watched(
    purifier: TracePurifier, images: Tensor, seeds: list[int], victim: nn.Module
) -> tuple[Watch, Tensor]:
    """Run the purifier on (B, C, H, W) images; return what was seen, and its results."""
    readout = purifier.readout(images, victim if purifier.uses_victim else None)
    every = max(1, purifier.steps // MAPPED)
    mapped = purifier.is_mapped if isinstance(purifier, DDIP) else lambda step: step % every == 0
    kept = np.unique(np.geomspace(1, purifier.steps, STRIP).round().astype(int) - 1)
    watch = Watch(readout, victim, mapped, frozenset(kept.tolist()))
    purifier.trace.stream(
        images, seeds, purifier.steps, lambda step, made: watch.see(Iterate(step, made, images, victim))
    )
    return watch, readout.result().clamp(0, 1)


def written(
    watch: Watch, final: Tensor, records: pd.DataFrame, victim: nn.Module, purifier: TracePurifier
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what the file holds: a description, and arrays with one row per image."""
    strips = torch.stack(watch.strip, 1)
    crossings = [[step for i, step in watch.crossings if i == image] for image in range(len(records))]
    description = {
        "ids": records.id.tolist(),
        "labels": records.label.tolist(),
        "steps": watch.steps,
        "kept": sorted(watch.kept),
        "crossings": crossings,
        "used": [
            steps[-(getattr(purifier, "crossings", None) or len(steps)) :] if steps else []
            for steps in crossings
        ],
        "says": [_said(_sure(victim, strip.to(final.device))) for strip in strips],
        "final": _said(_sure(victim, final)),
    }
    arrays = {
        "confidence": torch.stack(watch.confidence, 1).numpy(),
        "ssim": torch.stack(watch.ssim, 1).numpy(),
        "strip": np.stack([[as_bytes(image.numpy()) for image in strip] for strip in strips]),
        "last": np.stack([as_bytes(image.cpu().numpy()) for image in final]),
    }
    if isinstance(purifier, DDIP):
        for i in range(len(records)):
            boundary = watch.readout.boundary(i)[-ON_BOUNDARY:].cpu()
            arrays[f"boundary{i}"] = np.stack(
                [as_bytes(image.numpy()) for image in boundary] or [arrays["last"][i]]
            )[: len(boundary)]
            description.setdefault("on_boundary", []).append(
                _said(_sure(victim, boundary.to(final.device))) if len(boundary) else []
            )
    return description, arrays


def _images(store: Store, stage: str, records: pd.DataFrame) -> Tensor | None:
    """Return the (N, C, H, W) images of these records, or None if the store lacks one of them."""
    images = []
    for key, row in zip(records[stage], records.row, strict=True):
        content = store.content(place(store.root, stage, key))
        if content is None:
            return None
        images.append(safetensors.torch.load(content)["images"][row])
    return torch.stack(images)


def _sure(victim: nn.Module, images: Tensor) -> Tensor:
    """Return the (N, classes) confidences of the victim."""
    with torch.no_grad():
        return victim(images).softmax(1).cpu()


def _said(confidence: Tensor) -> list[str]:
    """Return the predicted class and its confidence as text."""
    top = confidence.max(1)
    return [
        f"class {label}, {100 * sure:.0f} %" for sure, label in zip(*map(Tensor.tolist, top), strict=True)
    ]


if __name__ == "__main__":
    sys.argv[1:] = words(sys.argv[1:])
    app.run(main, "trace")
