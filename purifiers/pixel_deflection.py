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
    """Random pixels take the value of a random neighbour, then wavelet denoising; grey or RGB.

    This is the paper's ablation without the robust activation map, which steers deflections away
    from the object and needs a class-activation-mapping network: here every pixel is as likely.

    A neighbour is uniform over the part of the window that lies in the image, the pixel itself
    included. All values are read from the image as given, and of several deflections of one pixel
    the last counts; the released code reads what earlier deflections have written, which differs
    only where a neighbour was deflected itself, and never reads the first row or column.

    Args:
        deflections: pixels chosen, with replacement; the paper's 200 are of 224x224 images, the
            same share of 32x32 is 4.
        window: farthest neighbour along each axis, in pixels.
        sigma: of the denoising, see purifiers/wavelet.py; 0 leaves it out.
        per_channel: as the released code does: each channel has deflections of its own, together
            `deflections`, rounded up to a whole number a channel. The paper moves whole pixels.
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
        # Writing straight to repeated places would leave it to chance, on a GPU, which write stays.
        numbers = torch.arange(shape[1], device=images.device).expand_as(source)
        last = torch.full((len(images), planes, height * width), -1, device=images.device)
        last.scatter_reduce_(2, y * width + x, numbers, "amax")
        written = source.gather(2, last.clamp(min=0)).expand_as(pixels)
        return torch.where(last >= 0, pixels.gather(2, written), pixels).view_as(images)

    def _neighbour(self, place: Tensor, side: int, draws: Draws) -> Tensor:
        low, high = (place - self.window).clamp(min=0), (place + self.window).clamp(max=side - 1)
        return low + draws.below(high - low + 1, place.shape[1:])
