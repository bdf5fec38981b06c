"""NRP, the neural representation purifier: Naseer et al. 2020, A Self-supervised Approach for
Adversarial Robustness. https://arxiv.org/abs/2006.04924
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.learned import Learned
from purifiers.networks.nrp import Critic, ResG, RRDBNet
from purifiers.training import Training


class NRP(Learned):
    """One pass of a network that was trained to undo self-supervised perturbations (SSP), which
    move an image's features as far as they can and need no label.

    The authors' training code is not public. The critic, its Adam, and the absolute differences in the
    loss are our choice. The perturbation is that of the authors' public SSP attack.

    Args:
        weights: weights of the network.
        network: "nrp" (16.6 M parameters at the default sizes) or "resG" (1.70 M).
        channels: number of image channels.
        filters, blocks: sizes of the network.
        growth: channels that each dense layer of "nrp" adds; "resG" does not use it.
        round_to_8_bits: whether the output too is rounded, as in the public code.
        features: module that maps images in [0, 1] to features; it is used only for training, and is
            frozen here. The authors use VGG-16 up to conv3_3, including its normalisation.
        eps, step, steps: largest change, change per step and number of steps of the perturbation.
        pixel_weight, feature_weight, adversarial_weight: weights of the three parts of the loss. The
            defaults are those of ESRGAN, on whose loss NRP's is modelled. A weight of 0 leaves its part out.
        critic_lr: learning rate of the critic's Adam.
    """

    version = 1
    gradient = "bpda"
    inference_only = frozenset({"round_to_8_bits"})
    resumable = False  # the critic is not in the checkpoint

    def __init__(
        self,
        *,
        weights: WeightFile | Training,
        network: Literal["nrp", "resG"] = "nrp",
        channels: int = 3,
        filters: int = 64,
        growth: int = 32,
        blocks: int = 23,
        round_to_8_bits: bool = True,
        features: nn.Module | None = None,
        eps: float = 16 / 255,
        step: float = 0.01,
        steps: int = 100,
        pixel_weight: float = 1e-2,
        feature_weight: float = 1.0,
        adversarial_weight: float = 5e-3,
        critic_lr: float = 1e-4,
    ) -> None:
        sizes = {"channels": channels, "filters": filters, "growth": growth, "blocks": blocks, "steps": steps}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise InputError(f"purifier.{name}: expected at least 1, got {value}")
        for name, value in (("eps", eps), ("step", step), ("critic_lr", critic_lr)):
            if not 0 < value <= 1:
                raise InputError(f"purifier.{name}: expected more than 0, at most 1, got {value}")
        parts = {"pixel": pixel_weight, "feature": feature_weight, "adversarial": adversarial_weight}
        for name, value in parts.items():
            if not value >= 0:
                raise InputError(f"purifier.{name}_weight: expected at least 0, got {value}")
        if not any(parts.values()):
            raise InputError("purifier: expected a positive pixel, feature or adversarial weight, got none")
        if network == "nrp":
            net = RRDBNet(channels=channels, filters=filters, growth=growth, blocks=blocks)
        elif network == "resG":
            net = ResG(channels=channels, filters=filters, blocks=blocks)
        else:
            raise InputError(f"purifier.network: expected nrp or resG, got {network!r}")
        super().__init__(weights=weights, network=net)
        self.round_to_8_bits = round_to_8_bits
        self.gradient = "bpda" if round_to_8_bits else "exact"
        self.features = None if features is None else features.eval().requires_grad_(False)
        self.channels = channels
        self.eps, self.step_size, self.steps = eps, step, steps
        self.parts = parts
        self.critic_lr = critic_lr
        self.critic: Critic | None = None
        self.critic_optimiser: torch.optim.Optimizer | None = None

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the network's output, clipped to [0, 1], and rounded to 8 bits if `round_to_8_bits`."""
        purified = self.network(images).clamp(0, 1)
        return (purified * 255).round() / 255 if self.round_to_8_bits else purified

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the weighted sum of the pixel, feature and adversarial losses.

        The pixel and feature losses are mean absolute differences between the clean images and what the
        network makes of the perturbed ones.

        The critic belongs to this object: the first call initialises it, and every call trains it by one
        step. An object therefore serves a single training run. Raises InputError without `features`.
        """
        perturbed = self.perturb(images, generator)
        purified = self.network(perturbed)
        features = self._features(images)
        loss = self.parts["pixel"] * F.l1_loss(purified, images)
        loss = loss + self.parts["feature"] * F.l1_loss(features(purified), features(images))
        if self.parts["adversarial"]:
            self._train_critic(images, purified.detach(), generator)
            fooled = relativistic_loss(real=self.critic(purified), fake=self.critic(images))
            loss = loss + self.parts["adversarial"] * fooled
        return loss

    def perturb(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return SSP's perturbed images, which maximise the mean squared change of the features.

        They stay in [0, 1] and within `eps` of the images. As in the public code, the ascent starts from
        normal noise that is clipped to that range.
        """
        features = self._features(images)
        with torch.no_grad():
            clean = features(images)
        low, high = (images - self.eps).clamp(min=0), (images + self.eps).clamp(max=1)
        noise = torch.randn(images.shape, generator=generator, device=generator.device)
        perturbed = noise.to(images).clamp(low, high)
        for _ in range(self.steps):
            perturbed.requires_grad_()
            (slope,) = torch.autograd.grad(F.mse_loss(features(perturbed), clean), perturbed)
            perturbed = (perturbed.detach() + self.step_size * slope.sign()).clamp(low, high)
        return perturbed

    def _features(self, images: Tensor) -> nn.Module:
        if self.features is None:
            raise InputError("NRP is trained on a network's features: set purifier.features, got none")
        return self.features.to(images.device)

    def _train_critic(self, clean: Tensor, purified: Tensor, generator: torch.Generator) -> None:
        if self.critic is None:
            seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                self.critic = Critic(channels=self.channels).to(clean.device)
            self.critic_optimiser = torch.optim.Adam(self.critic.parameters(), lr=self.critic_lr)
        self.critic.requires_grad_(True)
        self.critic_optimiser.zero_grad()
        relativistic_loss(real=self.critic(clean), fake=self.critic(purified)).backward()
        self.critic_optimiser.step()
        self.critic.requires_grad_(False)  # the network's loss goes through it, not into it


def relativistic_loss(*, real: Tensor, fake: Tensor) -> Tensor:
    """Return the relativistic loss of logits (N,).

    It is low if the real logits exceed the mean of the fake ones and the fake logits fall short of the mean
    of the real ones (Jolicoeur-Martineau 2018, The Relativistic Discriminator,
    https://arxiv.org/abs/1807.00734). This is the critic's loss; the network's exchanges the two arguments.
    """
    return (F.softplus(fake.mean() - real).mean() + F.softplus(fake - real.mean()).mean()) / 2
