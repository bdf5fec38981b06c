"""The work itself, as one process does it: craft a chunk, purify and score a chunk."""

import ctypes
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from attacks.attack import Attack
from attacks.knowledge import Knowledge
from data.errors import InputError
from purifiers.purifier import PurifierError, purify_together
from runners import records
from runners.cell import Crafting, Purifying
from runners.components import Spec, build, seed_of
from runners.memory import within_memory
from runners.store import Store, key_of
from victims.victim import Victim


def settle(device: str, *, tf32: bool) -> torch.device:
    """Fix what changes results from machine to machine: threads, precision, algorithm choice.

    TF32 multiplies with 10 bits of mantissa, on CUDA only. "auto" is CUDA where there is any. One thread
    a process on a CPU: sums are then taken in one order however many cores there are, and processes
    use the cores better than threads do. On CUDA the gradients of reflection padding and of bilinear
    enlargement are not repeatable to the bit.
    """
    torch.set_num_threads(1)
    _keep_freed_memory()
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("cpu", "cuda"):
        raise InputError(f"device: expected auto, cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device: cuda was asked for, but PyTorch sees no CUDA device here")
    if tf32 and device == "cpu":
        raise InputError("tf32: expected a CUDA device, a CPU has no TF32")
    return torch.device(device)


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed: else each step of a fit asks the kernel anew for the same pages."""
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-1, 2**30)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**25)  # M_MMAP_THRESHOLD, at its largest


@dataclass
class Bench:
    """What a process needs to work: the store, the device, and victims and purifiers once loaded."""

    store: Store
    device: torch.device
    precision: str
    components: dict[str, Any] = field(default_factory=dict)
    fitting: dict[str, int] = field(default_factory=dict)  # how many images of a task memory holds

    def do(self, task: Crafting | Purifying) -> None:
        """Make what the task names, and only what the store lacks."""
        if isinstance(task, Crafting):
            self.adversarial(task)
        else:
            self.purify(task)

    def component(self, spec: Spec) -> Any:
        """The victim or purifier; a victim on this device."""
        key = key_of(spec.identity)  # not the weights alone: a normalisation may differ
        if key not in self.components:
            component = spec.load(self.store)
            self.components[key] = component.to(self.device) if isinstance(component, Victim) else component
        return self.components[key]

    def adversarial(self, task: Crafting) -> dict[str, Tensor]:
        """Adversarial examples and the seconds that each took; from the store, or made."""
        stored = self.store.get_tensors(task.recipe)
        if stored is None:
            attack: Attack = build(task.attack)
            knowledge: Knowledge = build(task.knowledge)
            seeds = [seed_of(task.seed, image_id, "craft") for image_id in task.chunk.ids]
            images, labels = task.chunk.images.to(self.device), task.chunk.labels.to(self.device)
            start = time.perf_counter()
            made = attack(knowledge.model(self.component(task.victim)), images, labels, seeds=seeds)
            self._finish()
            seconds = torch.tensor((time.perf_counter() - start) / len(images))
            stored = {"images": made.cpu(), "seconds": seconds}
            self.store.put_tensors(task.recipe, stored)
        return stored

    def purify(self, task: Purifying) -> None:
        """Purified images and records of every purifier of the task."""
        wanted = [p for p in task.purifiers if self.store.get(task.records(p)) is None]
        purified = {key_of(task.purified(p)): self.store.get_tensors(task.purified(p)) for p in wanted}
        lacking = [p for p in wanted if purified[key_of(task.purified(p))] is None]
        adversarial = self.adversarial(task.crafting)
        chunk = task.crafting.chunk
        attacked = adversarial["images"].to(self.device)
        seeds = [seed_of(task.crafting.seed, image_id, "purify") for image_id in chunk.ids]
        victim = self.component(task.crafting.victim)
        broken: list[PurifierError] = []
        if lacking:
            start = time.perf_counter()
            purifiers = [self.component(spec) for spec in lacking]
            name = key_of({"purifiers": [spec.identity for spec in lacking]})
            parts, batch = within_memory(
                lambda part: purify_together(purifiers, attacked[part], seeds=seeds[part], victim=victim),
                len(chunk),
                min(len(chunk), self.fitting.get(name, len(chunk))),
            )
            if batch < len(chunk):
                self.fitting[name] = batch
            results = [whole(of_one) for of_one in zip(*parts, strict=True)]
            self._finish()
            seconds = torch.tensor((time.perf_counter() - start) / len(chunk))
            for spec, result in zip(lacking, results, strict=True):
                if isinstance(result, PurifierError):
                    broken.append(result)
                    continue
                made = {"images": result.cpu(), "seconds": seconds, "batch": torch.tensor(batch)}
                self.store.put_tensors(task.purified(spec), made)
                purified[key_of(task.purified(spec))] = made
        on_device = chunk.to(self.device)
        for spec in wanted:
            made = purified[key_of(task.purified(spec))]
            if made is None:
                continue
            rows = records.score(
                victim,
                on_device,
                attacked,
                made["images"].to(self.device),
                seconds=(adversarial["seconds"].item(), made["seconds"].item()),
                batch=int(made["batch"]),
                precision=task.crafting.precision,
                keys=(key_of(task.crafting.recipe), key_of(task.purified(spec))),
                seeds=seeds,
            )
            self.store.put(task.records(spec), records.to_parquet(rows))
        if broken:  # only now: what the others made is kept
            raise broken[0]

    def _finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def whole(parts: Sequence[Tensor | PurifierError]) -> Tensor | PurifierError:
    """One purifier's results, joined; the first error where there is one."""
    broken = [part for part in parts if isinstance(part, PurifierError)]
    return broken[0] if broken else torch.cat(list(parts))
