"""Rows of a target's images that do not depend on each other, for attacks with a loop of our own.

Many libraries' loops couple the images of a batch, so they run image by image (attacks/lockstep.py), which
takes a thread and small operations for every image. The loops of apgd.py, fab.py and square.py decide
everything row by row and draw each row from its image's own generator, so they work on the whole batch and
leave out the rows that are done. An image then gets the same result alone, among others and in any order. The
results are equal to the bit if the defense's own answers do not depend on the batch to the bit.

All images here are (N, C, H, W) float32 in [0, 1]; labels are (N,) int64.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from attacks.target import Target


class Rows:
    """Some images of a target, each with its own stream of random numbers.

    Row i of every argument and every answer belongs to image `owners[i]` of the target.
    """

    def __init__(
        self,
        target: Target,
        generators: Sequence[torch.Generator],
        owners: Sequence[int],
        device: torch.device,
    ) -> None:
        self.target, self.generators, self.owners, self.device = target, generators, list(owners), device

    @classmethod
    def of(cls, target: Target, seeds: Sequence[int], device: torch.device) -> "Rows":
        """Return the rows of all images of the target; image i draws from seeds[i]."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return cls(target, generators, range(len(generators)), device)

    def take(self, which: Tensor) -> "Rows":
        """Return the rows at these places (indices, or a mask of all rows), whose streams continue."""
        places = which.nonzero().flatten() if which.dtype == torch.bool else which
        return Rows(
            self.target, self.generators, [self.owners[place] for place in places.tolist()], self.device
        )

    def logits(self, images: Tensor) -> Tensor:
        """Return the (N, classes) answers without a gradient."""
        with torch.no_grad():
            return self.target.ask(images, self.owners)

    def gradient(self, images: Tensor, loss: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits (N, classes), their losses (N,), and the gradients (N, C, H, W) of the losses.

        Args:
            loss: function that maps logits to one loss for each row.
        """
        leaf = images.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = self.target.ask(leaf, self.owners)
            losses = loss(logits)
            (gradient,) = torch.autograd.grad(losses.sum(), leaf)
        self.target.count_gradient(gradient, self.owners)
        return logits.detach(), losses.detach(), gradient.contiguous()

    def uniform(self, *shape: int) -> Tensor:
        """Return (N, *shape) uniform numbers in [0, 1), each row from its image's own stream."""
        return self._drawn(torch.rand, shape)

    def normal(self, *shape: int) -> Tensor:
        """Return (N, *shape) standard normal numbers, each row from its image's own stream."""
        return self._drawn(torch.randn, shape)

    def _drawn(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        drawn = [draw(shape, generator=self.generators[owner]) for owner in self.owners]
        return torch.stack(drawn).to(self.device)


class Found(NamedTuple):
    """The result of an attempt: a mask (N,) of the misclassified rows, and images (N, C, H, W), which are
    adversarial for those rows."""

    fell: Tensor
    images: Tensor


Attempt = Callable[[Rows, Tensor, Tensor, Tensor], Found]  # rows, images, labels, places in the batch


def in_turn(attempts: Sequence[Attempt], rows: Rows, images: Tensor, labels: Tensor, places: Tensor) -> Found:
    """Run each attempt on the rows that resisted the earlier ones.

    Args:
        places: places (N,) of the rows in the whole batch; an attempt gets those of its own rows.
    """
    fell = torch.zeros_like(labels, dtype=torch.bool)
    adversarial = images.clone()
    for attempt in attempts:
        standing = (~fell).nonzero().flatten()
        if not len(standing):
            break
        result = attempt(rows.take(standing), images[standing], labels[standing], places[standing])
        fell[standing[result.fell]] = True
        adversarial[standing[result.fell]] = result.images[result.fell]
    return Found(fell, adversarial)


def each(values: Tensor, like: Tensor) -> Tensor:
    """Return (N,) values in a shape that broadcasts over the rows of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
