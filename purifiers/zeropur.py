"""ZeroPur: Bi et al. 2024, ZeroPur: Succinct Training-Free Adversarial Purification,
https://arxiv.org/abs/2406.03143.
"""

import copy
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.images import clipped
from purifiers.gaussian_smoothing import smooth, weights
from purifiers.purifier import TRIAL_STEPS, Purifier
from purifiers.victim_gradient import gradient_of

LATE = 2  # stages of the victim whose features are projected


class ZeroPur(Purifier):
    """Moves the image to where the victim's features are those of its blurred version.

    The guided shift moves the image by signed steps with momentum, so that its late features point in the
    direction of those of the blurred image. The projection starts from the image again, and follows the
    change that the shift made in the last two stages, while its distance from the image stays small in all
    stages.

    The victim's stages are found from what its modules return: see `stages`. The authors' code blurs images
    of 8 bits by Pillow; here they are not rounded. In places their code takes the momentum over all images of
    a batch; here each image is moved by itself. Their code also takes the root of the distance, which
    keeps the result nearer to the image.

    Args:
        eps: largest change of a value; 10/255 on CIFAR-10 and 6/255 on ImageNet in the authors' code.
        shift_steps, projection_steps: number of steps in each part; a step is eps divided by that number.
        projection: weight of the change that is followed.
        likeness: weight of the distance.
        blur: standard deviation of the Gaussian blur in pixels, as in the authors' code.
    """

    version = 2
    gradient: ClassVar = "bpda"
    uses_victim: ClassVar = True

    def __init__(
        self,
        *,
        eps: float = 10 / 255,
        shift_steps: int = 10,
        projection_steps: int = 50,
        projection: float = 1e-4,
        likeness: float = 1.0,
        blur: float = 1.8,
    ) -> None:
        if eps <= 0 or shift_steps < 1 or projection_steps < 1 or not blur > 0:
            raise InputError(
                "purifier: expected eps and blur > 0, and shift_steps and projection_steps >= 1, "
                f"got {eps}, {blur}, {shift_steps} and {projection_steps}"
            )
        self.eps, self.shift_steps, self.projection_steps = eps, shift_steps, projection_steps
        self.projection, self.likeness = projection, likeness
        self.kernel = weights(sigma=blur, reach=math.ceil(3 * blur))

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy with one step in each part, and how many times longer this one takes.

        Over many steps, the signs of gradients that are only rounding add up, so that a few values differ
        from batch to batch.
        """
        short = copy.copy(self)
        short.shift_steps = short.projection_steps = 1
        return short, (self.shift_steps + self.projection_steps) / 2

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the images after both parts, in [0, 1]."""
        images = images.detach()
        return self._projected(images, self._shifted(images, victim), victim)

    def _shifted(self, images: Tensor, victim: nn.Module) -> Tensor:
        """Return the images after the guided shift."""
        x, momentum = images, torch.zeros_like(images)
        for _ in range(self.shift_steps):
            with torch.no_grad():
                goal = _embedding(victim, smooth(x, self.kernel))
            uphill = gradient_of(
                lambda x, goal=goal: F.cosine_similarity(_embedding(victim, x), goal).sum(), x
            )
            momentum = momentum + uphill / uphill.abs().sum((1, 2, 3), keepdim=True).clamp_min(1e-12)
            x = self._near(images, x + self.eps / self.shift_steps * momentum.sign())
        return x

    def _projected(self, images: Tensor, shifted: Tensor, victim: nn.Module) -> Tensor:
        """Return the images after the projection."""
        with torch.no_grad():
            before, after = stages(victim, images), stages(victim, shifted)

        def goodness(x: Tensor) -> Tensor:
            now = stages(victim, x)
            along = sum(
                ((n - b) * (a - b)).sum()
                for n, b, a in zip(now[-LATE:], before[-LATE:], after[-LATE:], strict=True)
            )
            apart = sum(_distance(n, b) for n, b in zip(now, before, strict=True))
            return self.projection * along - self.likeness * apart

        x = images
        for _ in range(self.projection_steps):
            uphill = gradient_of(goodness, x)
            x = self._near(images, x + self.eps / self.projection_steps * uphill.sign())
        return x

    def _near(self, images: Tensor, x: Tensor) -> Tensor:
        return clipped(torch.minimum(torch.maximum(x, images - self.eps), images + self.eps))


def stages(victim: nn.Module, images: Tensor) -> list[Tensor]:
    """Return the last features of each shape that the victim's modules return, from first to last stage.

    Features have several places: (N, C, H, W) with H x W > 1, or the T > 1 tokens of a transformer, which are
    (N, T, C) there and (N, C, T) here. If a victim has none, its logits are its only stage.
    """
    latest: dict[torch.Size, Tensor] = {}

    def note(module: nn.Module, inputs: object, output: object) -> None:
        if not isinstance(output, Tensor) or output.ndim < 3:
            return
        features = output.transpose(1, 2) if output.ndim == 3 else output
        if features[0, 0].numel() > 1:
            latest.pop(features.shape, None)
            latest[features.shape] = features

    hooks = [part.register_forward_hook(note) for part in victim.modules()]
    try:
        logits = victim(images)
    finally:
        for hook in hooks:
            hook.remove()
    return list(latest.values()) or [logits]


def _embedding(victim: nn.Module, images: Tensor) -> Tensor:
    """Return the (N, C) means over the positions of the last stage."""
    last = stages(victim, images)[-1]
    return last.flatten(2).mean(2) if last.ndim > 2 else last


def _distance(features: Tensor, others: Tensor) -> Tensor:
    """Return the distance of LPIPS (Zhang et al. 2018, https://arxiv.org/abs/1801.03924) in one stage, summed
    over the images. Features are scaled to length 1 at each place."""
    apart = F.normalize(features, dim=1, eps=1e-8) - F.normalize(others, dim=1, eps=1e-8)
    return apart.square().sum(1).flatten(1).mean(1).sum() if apart.ndim > 2 else apart.square().sum()
