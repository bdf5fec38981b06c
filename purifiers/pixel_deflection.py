"""Pixel deflection: Prakash et al. 2018, Deflecting Adversarial Attacks with Pixel Deflection.
https://arxiv.org/abs/1801.08926
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from data.errors import InputError
from purifiers.fitting.draws import Draws
from purifiers.purifier import Purifier
from purifiers.wavelet import check_sigma, denoise


class PixelDeflection(Purifier):
    """Replaces random pixels by a random neighbour, and denoises grey or RGB images by wavelets.

    This is the paper's ablation without the robust activation map, which steers deflections away
    from the object and needs a class-activation-mapping network. Here every pixel is equally likely.

    A neighbour is drawn uniformly from the part of the window that lies in the image, including the
    pixel itself. All values are read from the given image, and the last of several deflections of one
    pixel counts. The released code reads what earlier deflections have written, which differs only if
    a neighbour was deflected itself, and it never reads the first row or column.

    Args:
        deflections: number of pixels, chosen with replacement. The paper's 200 is for 224x224 images;
            the same share of 32x32 pixels is 4.
        window: farthest neighbour along each axis, in pixels.
        sigma: standard deviation for the denoising, see purifiers/wavelet.py; 0 leaves it out.
        per_channel: whether each channel has deflections of its own, as in the released code. Their total
            is `deflections`, rounded up to a whole number for each channel. The paper moves whole pixels.
    """

    version = 1
    stochastic = True

    def __init__(
        self, *, deflections: int = 200, window: int = 10, sigma: float = 0.04, per_channel: bool = False
    ) -> None:
        for name, value in (("deflections", deflections), ("window", window)):
            if value < 1 or value != int(value):
                raise InputError(f"purifier.{name}: expected a whole number of at least 1, got {value}")
        check_sigma(sigma)
        self.deflections, self.window = int(deflections), int(window)
        self.sigma, self.per_channel = sigma, per_channel

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Deflect pixels, and denoise the images."""
        return denoise(self.deflect(images, Draws(seeds, images.device)), self.sigma)

    def deflect(self, images: Tensor, draws: Draws) -> Tensor:
        """Return the images (N, C, H, W) with pixels replaced, before denoising."""
        _, channels, height, width = images.shape
        planes = channels if self.per_channel else 1
        shape = (planes, -(-self.deflections // planes))
        y, x = draws.below(height, shape), draws.below(width, shape)
        source = self._neighbour(y, height, draws) * width + self._neighbour(x, width, draws)
        pixels = images.flatten(2)
        # If repeated places were written to directly, chance would decide on a GPU which write remains.
        numbers = torch.arange(shape[1], device=images.device).expand_as(source)
        last = torch.full((len(images), planes, height * width), -1, device=images.device)
        last.scatter_reduce_(2, y * width + x, numbers, "amax")
        written = source.gather(2, last.clamp(min=0)).expand_as(pixels)
        return torch.where(last >= 0, pixels.gather(2, written), pixels).view_as(images)

    def _neighbour(self, place: Tensor, side: int, draws: Draws) -> Tensor:
        low, high = (place - self.window).clamp(min=0), (place + self.window).clamp(max=side - 1)
        return low + draws.below(high - low + 1, place.shape[1:])
