"""Dynamic inference: Naseer et al. 2020, A Self-supervised Approach for Adversarial Robustness,
supplement. https://arxiv.org/abs/2006.04924 (also NCIS, supplement 3.5)
"""

from collections.abc import Sequence

from torch import Tensor, nn

from data.errors import InputError
from data.images import clipped
from purifiers.fitting.draws import Draws
from purifiers.purifier import Purifier
from purifiers.wrapper import Wrapper

OWN_STREAM = 0x64796E616D6963  # so that the purifier inside does not draw the same numbers


class Dynamic(Wrapper):
    """Another purifier, applied to the image with fresh Gaussian noise.

    The noise is clipped to [-eps, eps] and the noisy image to [0, 1], which is then purified once. The
    traits other than `stochastic` follow from the purifier inside, as in every wrapper.

    Args:
        purifier: the purifier inside.
        sigma: standard deviation of the noise.
        eps: largest absolute value of the noise.
    """

    version = 1
    stochastic = True

    def __init__(self, *, purifier: Purifier, sigma: float = 0.05, eps: float = 16 / 255) -> None:
        for name, value in (("sigma", sigma), ("eps", eps)):
            if not 0 < value <= 1:
                raise InputError(f"purifier.{name}: expected more than 0, at most 1, got {value}")
        super().__init__(purifier=purifier)
        self.stochastic, self.sigma, self.eps = True, sigma, eps

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the purified noisy images."""
        return self.purifier.purify(self.noisy(images, seeds), seeds, victim)

    def noisy(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Return the noisy images that the purifier inside is given, (N, C, H, W) in [0, 1]."""
        draws = Draws([seed ^ OWN_STREAM for seed in seeds], images.device)
        noise = (self.sigma * draws.normal(images.shape[1:])).clamp(-self.eps, self.eps)
        return clipped(images + noise)
