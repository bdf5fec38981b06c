"""ComDefend: Jia et al. 2019, ComDefend: An Efficient Image Compression Model to Defend
Adversarial Examples. https://arxiv.org/abs/1811.12673
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.learned import Learned
from purifiers.training import Training

CODE = 12
WIDTHS = (16, 32, 64, 128, 256, 128, 64, 32)


class ComDefend(Learned):
    """A convolutional encoder to 12 binary planes, and a decoder, for images of any size.

    As in the paper, the code is thresholded at 0.5 and no noise is added at test time.

    Args:
        weights: tensors enc0.weight, enc0.bias ... dec8.bias.
        offset: value subtracted from the input; the released network was trained with 0.5.
        patch: side of the squares that are each coded by themselves, as in the released code with 32 on
            ImageNet; None codes the whole image at once, which keeps more of it.
        noise: standard deviation of the noise on the code before its sigmoid, in training.
        code_weight: weight of the code's mean square in the loss.
        channels: number of image channels.
        widen: factor on all widths; 1 in the paper.
    """

    version = 1
    inference_only = frozenset({"patch"})

    def __init__(
        self,
        *,
        weights: WeightFile | Training,
        offset: float = 0.5,
        patch: int | None = None,
        noise: float = 20.0,
        code_weight: float = 1e-4,
        channels: int = 3,
        widen: float = 1.0,
    ) -> None:
        if patch is not None and patch < 1:
            raise InputError(f"purifier.patch: expected at least 1, got {patch}")
        widths = [max(1, round(width * widen)) for width in WIDTHS]
        network = nn.ModuleDict()
        for half, sizes in (("enc", [channels, *widths, CODE]), ("dec", [CODE, *widths[::-1], channels])):
            for i in range(len(sizes) - 1):
                network[f"{half}{i}"] = nn.Conv2d(sizes[i], sizes[i + 1], 3, padding=1)
        super().__init__(weights=weights, network=network)
        self.channels = channels
        self.offset, self.patch = offset, patch
        self.noise, self.code_weight = noise, code_weight

    def objective(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the mean squared error through the noisy code, plus the code's weighted mean square."""
        code = self._half("enc", images - self.offset)
        noise = torch.randn(code.shape, generator=generator).to(code) * self.noise
        output = torch.sigmoid(self._half("dec", torch.sigmoid(code - noise)))
        return F.mse_loss(output, images) + self.code_weight * code.square().mean()

    def restore(self, images: Tensor, seeds: Sequence[int]) -> Tensor:
        """Encode the images, binarise the code, and decode it."""
        if self.patch is None:
            return self._coded(images)
        n, channels, height, width = images.shape
        side = self.patch
        padded = F.pad(images, (0, -width % side, 0, -height % side), mode="replicate")
        squares = padded.unfold(2, side, side).unfold(3, side, side)  # (N, C, rows, columns, side, side)
        rows, columns = squares.shape[2:4]
        coded = self._coded(squares.permute(0, 2, 3, 1, 4, 5).flatten(0, 2))
        coded = coded.view(n, rows, columns, channels, side, side).permute(0, 3, 1, 4, 2, 5)
        return coded.reshape(n, channels, rows * side, columns * side)[:, :, :height, :width]

    def _coded(self, images: Tensor) -> Tensor:
        code = torch.sigmoid(self._half("enc", images - self.offset)) > 0.5
        return torch.sigmoid(self._half("dec", code.to(images.dtype)))

    def _half(self, half: str, x: Tensor) -> Tensor:
        for i in range(len(WIDTHS) + 1):
            x = self.network[f"{half}{i}"](x)
            if i < len(WIDTHS):
                x = F.elu(x)
        return x
