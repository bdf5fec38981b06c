"""The trainer of victims whose weights are not published."""

import math
import time
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from data.checkpoint import SECONDS, Checkpoint, resume, state_of
from data.errors import InputError
from data.images import Dataset, Images
from data.repeatable import repeatable
from data.weights import WeightFile

WARM = 0.3  # share of the steps until the learning rate reaches its peak
CPU = torch.device("cpu")


class Recipe:
    """A training by SGD with momentum on the training split, repeatable from its seed and resumable.

    The same kind of CPU gives the same weights every time. Another kind rounds differently (AVX2 and AVX-512
    differ, for example), so weights that were trained there differ, and their accuracy differs by a few
    images. Weights that must be the same on all machines are therefore shipped. The last images of an epoch
    that do not fill a batch are left out.

    Args:
        dataset: data set whose training split is learnt.
        epochs, batch, lr, momentum, weight_decay: settings of SGD; lr is the peak of the schedule.
        shift: largest random translation in pixels.
        seed: seed of the initial weights, the order, the translations and the flips.
        schedule: schedule of the learning rate. "one-cycle" (Smith and Topin 2018,
            https://arxiv.org/abs/1708.07120) in PyTorch's form, which changes the momentum too; "cosine", a
            linear rise and then half a cosine down; or "constant".
        nesterov: whether the momentum is Nesterov's instead of the plain one.
        border: content beyond the border of a translated image, "reflect" or "black".
        flip: whether half of the images are mirrored from left to right.
        start: weights of other classes from which the training begins; only the last layer is drawn anew.
        head_only: whether only the last layer is learnt; for networks without BatchNorm, which otherwise
            unlearn the rest.
        gpu: train on the run's device; otherwise on the CPU.
        amp: whether products on a GPU are in bfloat16.
        shipped: weights that exactly these parameters gave. They are used instead of a new training, and
            ignored if any parameter differs.
    """

    version = 2
    descriptive = frozenset({"shipped"})

    def __init__(
        self,
        *,
        dataset: Dataset,
        epochs: int = 8,
        batch: int = 128,
        lr: float = 0.1,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        shift: int = 0,
        seed: int = 0,
        schedule: Literal["one-cycle", "cosine", "constant"] = "one-cycle",
        nesterov: bool = True,
        border: Literal["reflect", "black"] = "reflect",
        flip: bool = False,
        start: WeightFile | None = None,
        head_only: bool = False,
        gpu: bool = False,
        amp: bool = False,
        shipped: WeightFile | None = None,
    ) -> None:
        if schedule not in ("one-cycle", "cosine", "constant") or border not in ("reflect", "black"):
            raise InputError(
                "victim.weights: expected schedule one-cycle, cosine or constant and border reflect or "
                f"black, got {schedule!r} and {border!r}"
            )
        if not isinstance(epochs, int) or epochs < 1 or shift < 0:
            raise InputError(f"victim.weights: expected epochs >= 1 and shift >= 0, got {epochs} and {shift}")
        if head_only and start is None:
            raise InputError(
                "victim.weights.head_only: expected weights.start, to learn only the last layer of"
            )
        self.dataset = dataset
        self.epochs, self.batch, self.lr = epochs, batch, lr
        self.momentum, self.weight_decay = momentum, weight_decay
        self.shift, self.seed = shift, seed
        self.schedule, self.border, self.flip = schedule, border, flip
        self.nesterov = nesterov
        self.start, self.head_only, self.gpu, self.amp = start, head_only, gpu, amp
        self.shipped = shipped

    def fit(
        self,
        victim: nn.Module,
        *,
        progress: Callable[[float], None] = lambda share: None,
        checkpoint: Checkpoint | None = None,
        device: torch.device = CPU,
    ) -> dict[str, Tensor]:
        """Train `victim.network` from scratch or from `start`, and return its state on the CPU.

        After each step, `progress` is called with the share of the steps that are done. Raises MissingError
        if `start` is missing, InputError if `start` or the batch does not fit.
        """
        device = device if self.gpu else CPU
        begin = None if self.start is None else self.start.load()
        data: Images = self.dataset.load("train")
        if not 1 <= self.batch <= len(data):
            raise InputError(f"victim.weights.batch: expected 1 to {len(data)}, got {self.batch}")
        network, generator = victim.network, torch.Generator().manual_seed(self.seed)
        in_epoch = len(data) // self.batch
        steps = self.epochs * in_epoch
        with repeatable(network, self.seed, device):
            if begin is not None:
                network.begin_from(begin)
            victim.to(device, memory_format=torch.channels_last).train().requires_grad_(True)
            if self.head_only:
                network.fix_all_but_head()
            optimiser = torch.optim.SGD(
                [parameter for parameter in network.parameters() if parameter.requires_grad],
                lr=self.lr,
                momentum=self.momentum,
                weight_decay=self.weight_decay,
                nesterov=self.nesterov,
            )
            schedule = self._schedule(optimiser, steps)
            saved = checkpoint.load() if checkpoint is not None else None
            done = resume(saved, network, optimiser, generator)
            order = torch.empty(0) if saved is None else saved["order"]
            _forward(schedule, done)
            saved_at = time.monotonic()
            for step in range(done, steps):
                place = step % in_epoch
                if place == 0:
                    order = torch.randperm(len(data), generator=generator)
                picked = order[place * self.batch : (place + 1) * self.batch]
                images = self._varied(data.images[picked], generator)
                images = images.to(device, memory_format=torch.channels_last)
                with torch.autocast(device.type, torch.bfloat16, enabled=self.amp and device.type == "cuda"):
                    logits = victim(images)
                loss = F.cross_entropy(logits.float(), data.labels[picked].to(device))
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                progress((step + 1) / steps)
                if checkpoint is not None and time.monotonic() - saved_at > SECONDS:
                    checkpoint.save(state_of(step + 1, network, optimiser, generator) | {"order": order})
                    saved_at = time.monotonic()
        victim.to("cpu", memory_format=torch.contiguous_format).eval()
        return {name: value.detach().clone() for name, value in network.state_dict().items()}

    def _varied(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a batch that is shifted and mirrored at random."""
        images = _translate(images, self.shift, self.border, generator)
        if not self.flip:
            return images
        mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
        return torch.where(mirrored, images.flip(3), images)

    def _schedule(self, optimiser: torch.optim.Optimizer, steps: int) -> LRScheduler:
        if self.schedule == "one-cycle":
            return OneCycleLR(optimiser, self.lr, total_steps=steps)
        if self.schedule == "constant":
            return LambdaLR(optimiser, lambda step: 1.0)
        warm = max(1, round(WARM * steps))

        def share(step: int) -> float:
            if step < warm:
                return step / warm
            return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2

        return LambdaLR(optimiser, share)


def _forward(schedule: LRScheduler, steps: int) -> None:
    """Set the schedule to its state after this many steps, which is a function of their number."""
    if steps:
        schedule.load_state_dict(schedule.state_dict() | {"last_epoch": steps - 1, "_step_count": steps + 1})
        schedule.step()


def _translate(images: Tensor, shift: int, border: str, generator: torch.Generator) -> Tensor:
    if shift == 0:
        return images
    height, width = images.shape[2:]
    padded = F.pad(images, (shift,) * 4, mode="reflect" if border == "reflect" else "constant")
    offsets = torch.randint(2 * shift + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack(
        [p[:, y : y + height, x : x + width] for p, (y, x) in zip(padded, offsets, strict=True)]
    )
