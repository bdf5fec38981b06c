"""The denoiser that score-based and diffusion purifiers share: one network, trained once for each data set.

An estimate of the clean image is also an estimate of the score, the gradient of the logarithm of the density
of noisy images: with noise of level sigma it is (estimate - image) / sigma^2 (Vincent 2011, A Connection
Between Score Matching and Denoising Autoencoders, https://doi.org/10.1162/NECO_a_00142).

Images are in [-1, 1] here, and noise levels are standard deviations on that scale.
"""

import torch
from torch import Tensor, nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.learned import Learned, TrainedNetwork
from purifiers.training import Training


class Denoiser(TrainedNetwork):
    """A network that is given the noise level, trained as in Karras et al. 2022, Elucidating the Design Space
    of Diffusion-Based Generative Models, https://arxiv.org/abs/2206.00364.

    Args:
        weights: weights of the network.
        network: module that maps noisy images (N, C, H, W) and their noise levels (N,) to an estimate of
            the clean images; C is its attribute `channels`, or 3.
        log_mean, log_std: mean and standard deviation of the normal distribution from which the training
            draws the logarithm of the noise level.
        spread: standard deviation of the values of clean images; it sets the weight of each noise level.
    """

    version = 1

    def __init__(
        self,
        *,
        weights: WeightFile | Training,
        network: nn.Module,
        log_mean: float = -1.2,
        log_std: float = 1.2,
        spread: float = 0.5,
    ) -> None:
        if log_std <= 0 or spread <= 0:
            raise InputError(f"denoiser: expected log_std and spread above 0, got {log_std} and {spread}")
        super().__init__(weights=weights, network=network)
        self.channels = getattr(network, "channels", 3)
        self.log_mean, self.log_std, self.spread = log_mean, log_std, spread

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the squared error of the estimate, weighted so that all levels count alike at first."""
        drawn = torch.randn(len(images), generator=generator)
        noise = torch.randn(images.shape, generator=generator).to(images)
        levels = (self.log_mean + self.log_std * drawn).exp().to(images)
        sigma = levels.view(-1, 1, 1, 1)
        clean = 2 * images - 1
        weight = (sigma.square() + self.spread**2) / (sigma * self.spread).square()
        return (weight * (self.network(clean + sigma * noise, levels) - clean).square()).mean()


class DenoiserPurifier(Learned):
    """A purifier whose network is the shared denoiser. A subclass says how it purifies.

    Args:
        denoiser: the denoiser. Its training does not depend on the purifier, so all purifiers of a data set
            share it.
    """

    def __init__(self, *, denoiser: Denoiser) -> None:
        super().__init__(weights=denoiser.weights, network=denoiser.network)
        self.denoiser = denoiser
        self.channels = denoiser.channels

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the training loss of the denoiser."""
        return self.denoiser.objective(images, generator)

    def denoised(self, noisy: Tensor, levels: Tensor | float) -> Tensor:
        """Return the estimate of the clean images, for one noise level or for (N,) of them."""
        return self.network(noisy, torch.as_tensor(levels).to(noisy).expand(len(noisy)))

    def score(self, noisy: Tensor, levels: Tensor | float) -> Tensor:
        """Return the gradient of the logarithm of the density of images with this noise level."""
        sigma = torch.as_tensor(levels).to(noisy).expand(len(noisy)).view(-1, 1, 1, 1)
        return (self.denoised(noisy, levels) - noisy) / sigma.square()
