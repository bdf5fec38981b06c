"""GDMP: Wang et al. 2022, Guided Diffusion Model for Adversarial Purification,
https://arxiv.org/abs/2205.14969.
"""

import copy
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from data.errors import InputError
from data.similarity import ssim
from purifiers.denoiser import Denoiser
from purifiers.diffusion import DiffusionPurifier, to_unit
from purifiers.fitting.draws import Draws
from purifiers.purifier import TRIAL_STEPS, Purifier

Guidance = Literal["none", "mse", "ssim"]


class GDMP(DiffusionPurifier):
    """Several rounds of a little noise and its removal, which can be guided towards the given image.

    At each step back, the guide compares the image with the given one, to which as much noise was added. Its
    gradient has the weight `strength` x 3 sigma / (2 eps), where sigma is the noise level of the step and eps
    the size of the perturbation that is expected, as in the authors' code. Their code also averages the error
    over the 100 images of a batch; here it is that of each image, so that results do not depend on the batch.
    Their strengths, 60,000 for MSE and 1,000 for SSIM (with `until` 60 and 2 rounds), are 600 and 10 here.

    Args:
        denoiser: the shared denoiser.
        times: number of times in the chain.
        until: time of the chain up to which noise is added; 36 of 1000 in the authors' code.
        rounds: number of rounds.
        guidance: "mse" for the mean squared error, "ssim" for SSIM, or "none", which is the default of the
            authors' code.
        strength: strength of the guidance; a hundredth of that in the authors' code.
        eps: size of the expected perturbation.
    """

    version = 1

    def __init__(
        self,
        *,
        denoiser: Denoiser,
        times: int = 1000,
        until: int = 36,
        rounds: int = 4,
        guidance: Guidance = "none",
        strength: float = 600.0,
        eps: float = 8 / 255,
    ) -> None:
        if guidance not in get_args(Guidance):
            raise InputError(f"purifier.guidance: expected none, mse or ssim, got {guidance!r}")
        if rounds < 1 or strength < 0 or eps <= 0:
            raise InputError(
                "purifier: expected rounds >= 1, strength >= 0 and eps > 0, "
                f"got {rounds}, {strength} and {eps}"
            )
        super().__init__(denoiser=denoiser, times=times, until=until)
        self.rounds, self.guidance, self.strength, self.eps = rounds, guidance, strength, eps

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the images after all rounds, clipped to [0, 1]."""
        draws, noise = Draws(seeds, images.device), Draws([~seed for seed in seeds], images.device)
        given = x = 2 * images - 1

        def towards_given(x: Tensor, time: int) -> Tensor:
            share = self.kept[time].item()
            weight = self.strength * 3 * ((1 - share) / share) ** 0.5 / (2 * self.eps)
            return weight * self._uphill(x, self.noised(given, time, noise))

        guide = None if self.guidance == "none" else towards_given
        for _ in range(self.rounds):
            x = self.there_and_back(x, draws, guide)
        return to_unit(x)

    def shortened(self, *, steps: int = TRIAL_STEPS) -> tuple[Purifier, float]:
        """Return a copy with one round up to an early time, and how many times longer this one takes."""
        short = copy.copy(self)
        short.rounds, short.until = 1, min(self.until, steps)
        return short, self.rounds * self.until / short.until

    def _uphill(self, x: Tensor, goal: Tensor) -> Tensor:
        """Return the gradient of the similarity of each image to its goal."""
        if self.guidance == "mse":
            return 2 * (goal - x) / x[0].numel()
        differentiable = torch.is_grad_enabled() and (x.requires_grad or goal.requires_grad)
        with torch.enable_grad():
            leaf = x if differentiable else x.detach().requires_grad_()
            likeness = ssim(leaf / 2 + 0.5, goal / 2 + 0.5).sum()
            return torch.autograd.grad(likeness, leaf, create_graph=differentiable)[0]
