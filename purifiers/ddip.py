"""DDIP: Ding et al. 2021, Delving into Deep Image Prior for Adversarial Defense: A Novel
Reconstruction-based Defense Framework. https://arxiv.org/abs/2108.00180
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from data.errors import InputError
from purifiers.fitting.trace import Iterate, Readout, Trace, TracePurifier
from purifiers.purifier import TRIAL_STEPS

# Largest total number of pixels in one batch that a line search gives to the victim. On a CPU the victim is
# given the points of one image at a time, so that its rounding does not depend on the other images.
AT_ONCE = {"cpu": 0, "cuda": 2**22}


class DDIP(TracePurifier):
    """Averages images that are pushed off the decision boundaries which the trace crosses (Algorithm 1).

    The victim classifies `maps` reconstructions at equal intervals. If two successive ones differ in
    label and the first is similar enough to the input (Eq. 3), the point between them at which both
    labels tie is found (Eq. 4, 5) and pushed away from the input (Eq. 6). The result is the mean over
    the last `crossings` such pairs (Eq. 7). If a trace has no such pair, the result is the mean of its
    last `crossings` mapped reconstructions, which are not pushed.

    Args:
        trace: the optimisation.
        steps: T, 1000 on CIFAR-10 and 3000 on ImageNet.
        maps: number of reconstructions that are mapped to decisions, at equal intervals from the first,
            rounded up to whole steps; all of them if there are fewer steps.
        similarity: tau, the least SSIM to the input. The paper names no window; here it is that of the
            SSIM which the tables show (data/similarity.py).
        warmup: t0, in `warmup_unit`; earlier crossings do not count.
        warmup_unit: unit of t. Eq. 3 counts t in iterations; Algorithm 1 may be read as counting the
            mapped images ("maps"), which is nearer the paper's figures (docs/findings.md).
        crossings: K, the number of last pairs that are used; None uses all of them (ddip-singh).
        push: beta, the step away from the input.
        grid: N, the number of sections of the line search of Eq. 5; the paper does not state it.
        tie: what Eq. 5 compares, "logits" or "probabilities". The paper calls both f.
        clip: what is clipped to [0, 1], since the paper does not clip: the "mean" (Eq. 7) or "each"
            on-manifold image (Eq. 6).
    """

    version = 2
    uses_victim = True

    def __init__(
        self,
        *,
        trace: Trace,
        steps: int = 1000,
        maps: int = 200,
        similarity: float = 0.7,
        warmup: int = 50,
        warmup_unit: Literal["iterations", "maps"] = "maps",
        crossings: int | None = 15,
        push: float = 0.5,
        grid: int = 10,
        tie: Literal["logits", "probabilities"] = "logits",
        clip: Literal["mean", "each"] = "mean",
    ) -> None:
        super().__init__(trace=trace, steps=steps)
        for name, value, choices in (
            ("warmup_unit", warmup_unit, ("iterations", "maps")),
            ("tie", tie, ("logits", "probabilities")),
            ("clip", clip, ("mean", "each")),
        ):
            if value not in choices:
                raise InputError(f"purifier.{name}: expected {' or '.join(choices)}, got {value!r}")
        for name, value in (("maps", maps), ("crossings", crossings), ("grid", grid)):
            if value is not None and value < 1:
                raise InputError(f"purifier.{name}: expected at least 1, got {value}")
        if push < 0 or warmup < 0:
            raise InputError(f"purifier: expected push and warmup >= 0, got {push} and {warmup}")
        self.maps, self.similarity = maps, similarity
        self.warmup, self.warmup_unit = warmup, warmup_unit
        self.crossings, self.push, self.grid, self.tie = crossings, push, grid, tie
        self.clip = clip
        self.crosses = crossings is not None  # without a K, each pair is added up and forgotten

    def is_mapped(self, step: int) -> bool:
        """Return whether the victim classifies the reconstruction after `step` updates."""
        return step == 0 or step * self.maps // self.steps > (step - 1) * self.maps // self.steps

    @property
    def first(self) -> int:
        """The first iteration whose crossings count."""
        if self.warmup_unit == "iterations":
            return self.warmup
        return math.ceil(self.warmup * max(1, self.steps / self.maps))

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple["DDIP", float]:
        """Return a copy with few iterations, which are mapped as often as in the full run, and how many
        times longer this one takes."""
        short, factor = super().shortened(steps=steps)
        short.maps = max(1, round(self.maps / factor))
        return short, factor

    def readout(self, targets: Tensor, victim: nn.Module | None) -> Readout:
        """Return a readout that collects crossings as they happen, in memory that does not grow."""
        if victim is None:
            raise ValueError("DDIP reads the victim's decisions: expected a victim, got none")
        return _Crossings(self, targets, victim)


class _Crossings:
    """Ring buffers of the last K crossing pairs and of the last K mapped images.

    If K is None, no buffer is needed: each pair's on-manifold image is added to a sum at once.
    """

    def __init__(self, purifier: DDIP, targets: Tensor, victim: nn.Module) -> None:
        self.purifier, self.targets, self.victim = purifier, targets, victim
        batch, k = len(targets), purifier.crossings or 0
        self.before = targets.new_zeros(batch, k, *targets.shape[1:])
        self.after = torch.zeros_like(self.before)
        self.labels = torch.zeros(batch, k, 2, dtype=torch.int64, device=targets.device)
        self.found = torch.zeros(batch, dtype=torch.int64, device=targets.device)
        self.total = torch.zeros_like(targets)
        self.recent: list[Tensor] = []
        self.previous: Iterate | None = None

    def see(self, iterate: Iterate) -> None:
        p = self.purifier
        if not p.is_mapped(iterate.step):
            return
        last = self.previous
        if last is not None and last.step > p.first:
            crossed = (last.labels != iterate.labels) & (last.ssim > p.similarity)
            pairs = torch.stack([last.labels, iterate.labels], 1)
            self._keep(crossed.nonzero().flatten(), last.images, iterate.images, pairs)
        self.previous = iterate
        self.recent = [*self.recent, iterate.images][-(p.crossings or 1) :]

    def _keep(self, rows: Tensor, before: Tensor, after: Tensor, labels: Tensor) -> None:
        if self.purifier.crossings is None:
            for part in self._groups([1] * len(rows)):
                owners = rows[part]
                self.total[owners] += self._manifold(owners, before[owners], after[owners], labels[owners])
        else:
            slots = self.found[rows] % self.purifier.crossings
            self.before[rows, slots] = before[rows]
            self.after[rows, slots] = after[rows]
            self.labels[rows, slots] = labels[rows]
        self.found[rows] += 1

    def result(self) -> Tensor:
        totals, k = self.found.tolist(), self.purifier.crossings
        results = [
            (self.total[i] / count).clamp(0, 1) if count else torch.stack([x[i] for x in self.recent]).mean(0)
            for i, count in enumerate(totals)
        ]
        if k is not None:
            counts = [min(count, k) for count in totals]
            for group in self._groups(counts):
                owners = [i for i in group for _ in range(counts[i])]
                index = owners, [slot for i in group for slot in range(counts[i])]
                manifold = self._manifold(owners, self.before[index], self.after[index], self.labels[index])
                for i, own in zip(group, manifold.split([counts[i] for i in group]), strict=True):
                    results[i] = own.mean(0).clamp(0, 1)
        return torch.stack(results)

    def _groups(self, counts: Sequence[int]) -> list[list[int]]:
        """Return groups of images that are given to the victim at once, as positions in `counts`.

        `counts` says how many pairs each image has. An image without pairs is in no group.
        """
        height, width = self.targets.shape[2:]
        each, limit = (self.purifier.grid + 1) * height * width, AT_ONCE[self.targets.device.type]
        groups: list[list[int]] = []
        size = 0
        for i, count in enumerate(counts):
            if not count:
                continue
            if not groups or size + count * each > limit:
                groups.append([])
                size = 0
            groups[-1].append(i)
            size += count * each
        return groups

    def boundary(self, i: int) -> Tensor:
        """Return image i's last on-boundary images (K, C, H, W), the oldest first, to inspect a trace."""
        count, k = int(self.found[i]), self.before.shape[1]
        order = [slot % k for slot in range(max(count - k, 0), count)] if k else []
        if not order:
            return self.before[i, :0]
        return self._on_boundary(self.before[i, order], self.after[i, order], self.labels[i, order])

    def _manifold(
        self, owners: Tensor | Sequence[int], before: Tensor, after: Tensor, labels: Tensor
    ) -> Tensor:
        """Return the on-manifold images (M, C, H, W) of M pairs, which belong to `owners` (Eq. 6)."""
        boundary = self._on_boundary(before, after, labels)
        manifold = boundary + self.purifier.push * (boundary - self.targets[owners])
        return manifold.clamp(0, 1) if self.purifier.clip == "each" else manifold

    def _on_boundary(self, before: Tensor, after: Tensor, labels: Tensor) -> Tensor:
        """Return the grid point (M, C, H, W) of each pair at which the victim is least decided."""
        share = torch.linspace(0, 1, self.purifier.grid + 1, device=before.device)
        mix = share.view(-1, 1, 1, 1, 1)
        points = mix * before + (1 - mix) * after  # (N + 1, M, C, H, W)
        with torch.no_grad():
            scores = self.victim(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        if self.purifier.tie == "probabilities":
            scores = scores.softmax(-1)
        index = labels.expand(len(share), -1, -1)
        gap = scores.gather(2, index).diff(dim=2).abs().squeeze(2)  # (N + 1, M)
        best = gap.argmin(0)
        return points[best, torch.arange(len(before), device=before.device)]
