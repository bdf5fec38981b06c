"""The trainer of learned purifiers: Adam on the purifier's own objective, on clean images only."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from data.checkpoint import SECONDS, Checkpoint, resume, state_of
from data.errors import InputError
from data.images import Dataset
from data.repeatable import THREADS, repeatable
from data.weights import WeightFile

CPU = torch.device("cpu")
AVERAGE = "average."  # prefix of the averaged weights in a checkpoint


class Trainable(Protocol):
    """The part of a purifier that the trainer uses."""

    network: nn.Module

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the loss of a batch of clean images (N, C, H, W) in [0, 1]; no label is given."""
        ...


class Training:
    """The training of a learned purifier. It can be resumed, and its seed gives the same weights again on
    one kind of CPU.

    Images are read only when their batch is taken, so a large data set of files needs no memory.

    Args:
        dataset: data set whose training split is used, without labels.
        steps, batch: number of updates, and of images in each, drawn without replacement in every epoch.
        lr: Adam's learning rate.
        halve_every: epochs after which the learning rate is halved; None lets it fall to 0 along a cosine.
        crop: side in pixels of the random square that is cut from each image; None takes the whole image.
        flip: mirror half of the images from left to right and, drawn separately, half from top to bottom.
        average: decay of an exponential moving average of the weights, which is what the training returns;
            None returns the last weights.
        seed: seed of the initial weights, the order, the crops, the flips and all that the objective draws.
        share: share of the training images that are used, drawn by the seed (NCIS, supplement, Table 1).
        gpu: train on the run's device; otherwise on the CPU, one kind of which gives the same weights.
        threads: number of CPU threads. It changes the order of sums, so it is a setting of the training.
        shipped: weights that exactly these parameters gave. They are used instead of a new training, and
            ignored if any parameter differs.
    """

    version = 1
    descriptive = frozenset({"shipped"})

    def __init__(
        self,
        *,
        dataset: Dataset,
        steps: int = 600,
        batch: int = 32,
        lr: float = 1e-3,
        halve_every: int | None = None,
        crop: int | None = None,
        flip: bool = False,
        average: float | None = None,
        seed: int = 0,
        share: float = 1.0,
        gpu: bool = False,
        threads: int = THREADS,
        shipped: WeightFile | None = None,
    ) -> None:
        if steps < 1 or batch < 1 or lr <= 0:
            raise InputError(f"training: expected steps, batch >= 1 and lr > 0, got {steps}, {batch}, {lr}")
        if not 0 < share <= 1:
            raise InputError(f"training.share: expected more than 0, at most 1, got {share}")
        for name, value in (("halve_every", halve_every), ("crop", crop), ("threads", threads)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(f"training.{name}: expected a whole number, at least 1, got {value!r}")
        if average is not None and not 0 < average < 1:
            raise InputError(f"training.average: expected a decay between 0 and 1, got {average}")
        self.dataset, self.steps, self.batch, self.lr, self.seed = dataset, steps, batch, lr, seed
        self.halve_every, self.crop, self.flip, self.average = halve_every, crop, flip, average
        self.share, self.gpu, self.threads, self.shipped = share, gpu, threads, shipped

    def fit(
        self,
        purifier: Trainable,
        *,
        progress: Callable[[float], None] = lambda share: None,
        checkpoint: Checkpoint | None = None,
        device: torch.device = CPU,
    ) -> dict[str, Tensor]:
        """Train `purifier.network` from scratch, and return its state on the CPU.

        After each step, `progress` is called with the share of the steps that are done. Raises InputError if
        the loss is not finite, if the batch or the crop is larger than the data, or if the images have other
        channels than the network takes.
        """
        device = device if self.gpu else CPU
        index = self.dataset.index("train")
        used = torch.arange(len(index.ids))
        if self.share < 1:
            order = torch.randperm(len(used), generator=torch.Generator().manual_seed(self.seed))
            used = order[: round(self.share * len(used))]
        if self.batch > len(used):
            raise InputError(f"training.batch: expected at most {len(used)}, got {self.batch}")
        network, generator = purifier.network, torch.Generator().manual_seed(self.seed)
        with repeatable(network, self.seed, device, threads=self.threads):
            network.to(device).train().requires_grad_(True)
            optimiser = torch.optim.Adam(network.parameters(), lr=self.lr)
            saved = checkpoint.load() if checkpoint is not None else None
            done = resume(saved, network, optimiser, generator)
            average = self._averaged(network, saved)
            saved_at = time.monotonic()
            for step in range(done, self.steps):
                epoch, place = divmod(step, len(used) // self.batch)
                optimiser.param_groups[0]["lr"] = self._rate(step, epoch)
                picked = used[self._picked(epoch, place, len(used))].tolist()
                images = self._varied(index.take(picked).images, generator).to(device)
                purifier.check_channels(images)
                loss = purifier.objective(images, generator)
                if not torch.isfinite(loss):
                    raise InputError(f"training: the loss is not finite at step {step}: lower its lr")
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                if average is not None:
                    average.update_parameters(network)
                progress((step + 1) / self.steps)
                if checkpoint is not None and time.monotonic() - saved_at > SECONDS:
                    checkpoint.save(state_of(step + 1, network, optimiser, generator) | _prefixed(average))
                    saved_at = time.monotonic()
        network.cpu().eval()
        trained = network if average is None else average.module.cpu()
        return {name: value.detach().clone() for name, value in trained.state_dict().items()}

    def _rate(self, step: int, epoch: int) -> float:
        if self.halve_every is None:
            return self.lr * (1 + math.cos(math.pi * step / self.steps)) / 2
        return self.lr * 0.5 ** (epoch // self.halve_every)

    def _picked(self, epoch: int, place: int, count: int) -> Tensor:
        """Return the images of a step by the order of its epoch, so that resuming needs no history."""
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed * 2**20 + epoch))
        return order[place * self.batch : (place + 1) * self.batch]

    def _varied(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return a batch that is cropped and mirrored at random."""
        if self.crop is not None:
            height, width = images.shape[2:]
            if self.crop > min(height, width):
                raise InputError(
                    f"training.crop: expected at most {min(height, width)} pixels, the images' shorter "
                    f"side, got {self.crop}"
                )
            tops = torch.randint(height - self.crop + 1, (len(images),), generator=generator).tolist()
            lefts = torch.randint(width - self.crop + 1, (len(images),), generator=generator).tolist()
            images = torch.stack(
                [
                    image[:, top : top + self.crop, left : left + self.crop]
                    for image, top, left in zip(images, tops, lefts, strict=True)
                ]
            )
        if self.flip:
            for axis in (3, 2):
                mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
                images = torch.where(mirrored, images.flip(axis), images)
        return images

    def _averaged(self, network: nn.Module, saved: Mapping[str, Tensor] | None) -> AveragedModel | None:
        """Return the average of the weights as it was when the checkpoint was saved; None without one."""
        if self.average is None:
            return None
        average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(self.average))
        if saved is not None:
            state = {
                name.removeprefix(AVERAGE): value for name, value in saved.items() if name.startswith(AVERAGE)
            }
            average.load_state_dict(state)
        return average


def _prefixed(average: AveragedModel | None) -> dict[str, Tensor]:
    """Return the part of a checkpoint that holds the average."""
    state = {} if average is None else average.state_dict()
    return {f"{AVERAGE}{name}": value for name, value in state.items()}
