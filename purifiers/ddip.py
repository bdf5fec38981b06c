"""DDIP: Ding et al. 2021, Delving into Deep Image Prior for Adversarial Defense: A Novel
Reconstruction-based Defense Framework. https://arxiv.org/abs/2108.00180
"""

from typing import Literal

import torch
from torch import Tensor, nn

from data.errors import InputError
from purifiers.trace import Iterate, Readout, Trace, TracePurifier


class DDIP(TracePurifier):
    """Averages images moved off the decision boundaries that the trace crosses (Algorithm 1).

    `maps` reconstructions at equal intervals go to the victim. Where two neighbours differ in
    label and the first looks enough like the input (Eq. 3), the point between them where both
    labels tie is found (Eq. 4, 5), pushed away from the input (Eq. 6) and averaged over the last
    `crossings` such pairs (Eq. 7). A trace without any keeps the mean of its last `crossings`
    mapped reconstructions, not pushed.

    Args:
        trace: how the optimisation runs.
        steps: T, 1000 on CIFAR-10 and 3000 on ImageNet.
        maps: reconstructions mapped to decisions: every (steps // maps)-th from the first.
        similarity: tau, the least SSIM to the input. The paper names no window: data/similarity.py.
        warmup: t0, in `warmup_unit`; earlier crossings do not count.
        warmup_unit: Eq. 3 counts t in iterations; Algorithm 1 over the mapped images may be read as
            counting those ("maps"), which is nearer the paper's figures (docs/findings.md).
        crossings: K, the pairs used.
        push: beta, the step away from the input.
        grid: N, sections of the line search of Eq. 5; the paper gives no number.
        tie: what Eq. 5 compares, "logits" or "probabilities". The paper calls both f.
        clip: the paper does not clip; images must stay in [0, 1], so we clip the "mean" (Eq. 7) or
            "each" on-manifold image (Eq. 6).
    """

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
        crossings: int = 15,
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
            if value < 1:
                raise InputError(f"purifier.{name}: expected at least 1, got {value}")
        if push < 0 or warmup < 0:
            raise InputError(f"purifier: expected push and warmup >= 0, got {push} and {warmup}")
        self.maps, self.similarity = maps, similarity
        self.warmup, self.warmup_unit = warmup, warmup_unit
        self.crossings, self.push, self.grid, self.tie = crossings, push, grid, tie
        self.clip = clip

    @property
    def interval(self) -> int:
        """Iterations from one mapped reconstruction to the next."""
        return max(1, self.steps // self.maps)

    @property
    def first(self) -> int:
        """The iteration from which crossings count."""
        return self.warmup * (self.interval if self.warmup_unit == "maps" else 1)

    def trial(self) -> tuple["DDIP", float]:
        """Few iterations, mapped as often as in the full run."""
        short, factor = super().trial()
        short.maps = max(1, round(self.maps / factor))
        return short, factor

    def readout(self, targets: Tensor, victim: nn.Module | None) -> Readout:
        """Collects crossings as they happen; at most `crossings` pairs an image are kept."""
        if victim is None:
            raise ValueError("DDIP reads the victim's decisions: expected a victim, got none")
        return _Crossings(self, targets, victim)


class _Crossings:
    """Ring buffers of the last K crossing pairs and of the last K mapped images."""

    def __init__(self, purifier: DDIP, targets: Tensor, victim: nn.Module) -> None:
        self.purifier, self.targets, self.victim = purifier, targets, victim
        batch, k = len(targets), purifier.crossings
        self.before = targets.new_zeros(batch, k, *targets.shape[1:])
        self.after = torch.zeros_like(self.before)
        self.labels = torch.zeros(batch, k, 2, dtype=torch.int64, device=targets.device)
        self.found = torch.zeros(batch, dtype=torch.int64, device=targets.device)
        self.recent: list[Tensor] = []
        self.previous: Iterate | None = None

    def see(self, iterate: Iterate) -> None:
        p = self.purifier
        if iterate.step % p.interval:
            return
        last = self.previous
        if last is not None and last.step > p.first:
            crossed = (last.labels != iterate.labels) & (last.ssim > p.similarity)
            rows = crossed.nonzero().flatten()
            slots = self.found[rows] % p.crossings
            self.before[rows, slots] = last.images[rows]
            self.after[rows, slots] = iterate.images[rows]
            pairs = torch.stack([last.labels, iterate.labels], 1)
            self.labels[rows, slots] = pairs[rows]
            self.found[rows] += 1
        self.previous = iterate
        self.recent = [*self.recent, iterate.images][-p.crossings :]

    def result(self) -> Tensor:
        return torch.stack([self._one(i) for i in range(len(self.targets))])

    def _one(self, i: int) -> Tensor:
        count = min(int(self.found[i]), self.purifier.crossings)
        if count == 0:
            return torch.stack([images[i] for images in self.recent]).mean(0)
        boundary = self._on_boundary(self.before[i, :count], self.after[i, :count], self.labels[i, :count])
        manifold = boundary + self.purifier.push * (boundary - self.targets[i])
        if self.purifier.clip == "each":
            manifold = manifold.clamp(0, 1)
        return manifold.mean(0).clamp(0, 1)

    def _on_boundary(self, before: Tensor, after: Tensor, labels: Tensor) -> Tensor:
        """(K, C, H, W): for each pair, the grid point where the victim is least decided."""
        share = torch.linspace(0, 1, self.purifier.grid + 1, device=before.device)
        mix = share.view(-1, 1, 1, 1, 1)
        points = mix * before + (1 - mix) * after  # (N + 1, K, C, H, W)
        with torch.no_grad():
            scores = self.victim(points.flatten(0, 1)).unflatten(0, points.shape[:2])
        if self.purifier.tie == "probabilities":
            scores = scores.softmax(-1)
        index = labels.expand(len(share), -1, -1)
        gap = scores.gather(2, index).diff(dim=2).abs().squeeze(2)  # (N + 1, K)
        best = gap.argmin(0)
        return points[best, torch.arange(len(before), device=before.device)]
