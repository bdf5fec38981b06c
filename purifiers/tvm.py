"""Total variation minimisation: Rudin et al. 1992; as a defense Guo et al. 2018, Countering Adversarial
Images using Input Transformations, https://arxiv.org/abs/1711.00117.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np
import torch
from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle
from torch import Tensor, nn

from data.errors import InputError
from purifiers.fitting.draws import Draws
from purifiers.purifier import Purifier


class Bregman(Purifier):
    """scikit-image's split-Bregman denoising (Goldstein and Osher 2009): the image u of least total
    variation plus weight / 2 times its squared distance to the input. RIDE uses it in Table 5.

    Args:
        weight: weight of the distance; a smaller weight gives a smoother image.
        iterations, eps: largest number of iterations, and tolerance of the stop criterion.
        std: standard deviations of the normalisation, one for each channel, if `weight` and `eps` are in
            its units, as RIDE's are (docs/findings.md); None if they are in units of images in [0, 1].
    """

    version = 1
    gradient: ClassVar = "none"

    def __init__(
        self,
        *,
        weight: float = 10.0,
        iterations: int = 100,
        eps: float = 1e-3,
        std: Sequence[float] | None = None,
    ) -> None:
        self.weight, self.iterations, self.eps = positive("weight", weight), iterations, eps
        self.std = units(std)

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the smoothed images (N, C, H, W), computed one at a time on the CPU."""
        return each(
            images,
            lambda image: denoise_tv_bregman(
                image, weight=self.weight, max_num_iter=self.iterations, eps=self.eps, channel_axis=-1
            ),
            std=self.std,
        )


class Chambolle(Purifier):
    """scikit-image's denoising by the method of Chambolle 2004. RIDE uses it in Table 6.

    Args:
        weight: weight of the total variation; a larger weight gives a smoother image.
        iterations, eps: largest number of iterations, and tolerance of the stop criterion.
        std: as for `Bregman`.
    """

    version = 1
    gradient: ClassVar = "none"

    def __init__(
        self,
        *,
        weight: float = 0.1,
        iterations: int = 200,
        eps: float = 2e-4,
        std: Sequence[float] | None = None,
    ) -> None:
        self.weight, self.iterations, self.eps = positive("weight", weight), iterations, eps
        self.std = units(std)

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the smoothed images (N, C, H, W), computed one at a time on the CPU."""
        return each(
            images,
            lambda image: denoise_tv_chambolle(
                image, weight=self.weight, max_num_iter=self.iterations, eps=self.eps, channel_axis=-1
            ),
            std=self.std,
        )


class TVM(Purifier):
    """The defense of Guo et al.: drops a random share of the values, and finds the image of least total
    variation that agrees with the rest by split Bregman, for all images at once.

    It minimises TV(u) + weight / 2 * |kept * (u - image)|^2, with the isotropic total variation of all
    channels together. The inner system is solved by red-black Gauss-Seidel sweeps. As in the released code,
    values are dropped, not pixels.

    Args:
        drop: share of the values that are dropped.
        weight: weight of the distance; 1 / 0.03 in the released code.
        iterations, sweeps: number of Bregman iterations, and of Gauss-Seidel sweeps in each.
    """

    version = 1
    stochastic: ClassVar = True
    gradient: ClassVar = "none"

    def __init__(
        self, *, drop: float = 0.5, weight: float = 1 / 0.03, iterations: int = 100, sweeps: int = 10
    ) -> None:
        if not 0 <= drop < 1:
            raise InputError(f"purifier.drop: expected at least 0 and below 1, got {drop}")
        self.drop, self.weight = drop, positive("weight", weight)
        self.stochastic = drop > 0
        self.iterations, self.sweeps = iterations, sweeps

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Return the smoothed images (N, C, H, W)."""
        kept = Draws(seeds, images.device).chosen(1 - self.drop, images.shape[1:])
        return inpaint(images, kept, weight=self.weight, iterations=self.iterations, sweeps=self.sweeps)


def inpaint(images: Tensor, kept: Tensor, *, weight: float, iterations: int, sweeps: int) -> Tensor:
    """Run split Bregman with isotropic total variation; `kept` marks the values that count."""
    penalty = 2 * weight  # weight of the split, as in scikit-image
    pull = weight * kept.to(images.dtype)
    u = images.clone()
    right, down, b_right, b_down = (torch.zeros_like(images) for _ in range(4))
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    odd = (rows.view(-1, 1) + columns) % 2 == 1
    neighbours = 4 - sum((at == edge).to(images.dtype) for at, edge in _edges(rows, columns))
    for _ in range(iterations):
        source = pull * images + penalty * (_back(right - b_right, 3) + _back(down - b_down, 2))
        for _ in range(sweeps):
            for colour in (odd, ~odd):
                around = penalty * _around(u)
                u = torch.where(colour, (source + around) / (pull + penalty * neighbours), u)
        u_right, u_down = _forward(u, 3), _forward(u, 2)
        size = ((u_right + b_right).square() + (u_down + b_down).square()).sum(1, keepdim=True).sqrt()
        shrink = (1 - 1 / (penalty * size.clamp_min(1e-12))).clamp_min(0)
        right, down = (u_right + b_right) * shrink, (u_down + b_down) * shrink
        b_right, b_down = b_right + u_right - right, b_down + u_down - down
    return u.clamp(0, 1)


def _edges(rows: Tensor, columns: Tensor) -> list[tuple[Tensor, int]]:
    return [
        (rows.view(-1, 1), 0),
        (rows.view(-1, 1), len(rows) - 1),
        (columns.view(1, -1), 0),
        (columns.view(1, -1), len(columns) - 1),
    ]


def _forward(u: Tensor, dim: int) -> Tensor:
    """Return the differences to the next value, with 0 at the end."""
    return torch.diff(u, dim=dim, append=u.narrow(dim, u.shape[dim] - 1, 1))


def _back(d: Tensor, dim: int) -> Tensor:
    """Return the adjoint of `_forward`."""
    inside = d.narrow(dim, 0, d.shape[dim] - 1)
    zero = torch.zeros_like(d.narrow(dim, 0, 1))
    return torch.cat([zero, inside], dim) - torch.cat([inside, zero], dim)


def _around(u: Tensor) -> Tensor:
    """Return the sum of those of the four neighbours that exist."""
    padded = nn.functional.pad(u, (1, 1, 1, 1))
    return padded[..., 1:-1, :-2] + padded[..., 1:-1, 2:] + padded[..., :-2, 1:-1] + padded[..., 2:, 1:-1]


def each(
    images: Tensor,
    denoise: Callable[[np.ndarray], np.ndarray],
    *,
    std: tuple[float, ...] | None = None,
) -> Tensor:
    """Apply a NumPy function of (H, W, C) images to every image divided by `std`.

    Total variation does not depend on the mean of a normalisation, so the mean is not subtracted.
    """
    if std is not None and len(std) != images.shape[1]:
        raise InputError(f"purifier.std: expected one for each of {images.shape[1]} channels, got {len(std)}")
    scale = 1.0 if std is None else np.array(std)
    arrays = images.permute(0, 2, 3, 1).cpu().double().numpy() / scale
    # scikit-image's split Bregman returns grey images without their channel.
    denoised = [denoise(image).reshape(image.shape) * scale for image in arrays]
    return torch.from_numpy(np.stack(denoised)).permute(0, 3, 1, 2).clamp(0, 1).to(images)


def units(std: Sequence[float] | None) -> tuple[float, ...] | None:
    """Return the standard deviations, or None; raise InputError unless all are above 0."""
    return None if std is None else tuple(positive("std", value) for value in std)


def positive(name: str, value: float) -> float:
    """Return `value` if it is above 0; raise InputError otherwise."""
    if not value > 0:
        raise InputError(f"purifier.{name}: expected above 0, got {value}")
    return value
