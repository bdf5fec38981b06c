"""ComDefend: Jia et al. 2019, ComDefend: An Efficient Image Compression Model to Defend
Adversarial Examples. https://arxiv.org/abs/1811.12673
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data.errors import InputError
from data.weights import WeightFile
from purifiers.purifier import Purifier

LAYERS = 9


class ComDefend(Purifier):
    """A convolutional encoder to 12 binary planes and a decoder back; RGB, any size.

    Test time as in the paper: the code is thresholded at 0.5 and no noise is added. The image is
    coded whole (the network is fully convolutional).

    Args:
        weights: tensors enc0.weight, enc0.bias ... dec8.bias.
        offset: subtracted from the input; the released network was trained with 0.5.
    """

    def __init__(self, *, weights: WeightFile, offset: float = 0.5) -> None:
        self.offset = offset
        self.state = weights.load()
        wanted = {
            f"{half}{i}.{kind}"
            for half in ("enc", "dec")
            for i in range(LAYERS)
            for kind in ("weight", "bias")
        }
        if missing := wanted - set(self.state):
            raise InputError(f"ComDefend weights lack {', '.join(sorted(missing)[:4])} ...")

    def purify(self, images: Tensor, seeds: Sequence[int], victim: nn.Module | None) -> Tensor:
        """Encode, binarise, decode."""
        code = torch.sigmoid(self._half("enc", images - self.offset)) > 0.5
        return torch.sigmoid(self._half("dec", code.to(images.dtype)))

    def _half(self, half: str, x: Tensor) -> Tensor:
        for i in range(LAYERS):
            weight, bias = (self.state[f"{half}{i}.{kind}"].to(x) for kind in ("weight", "bias"))
            x = F.conv2d(x, weight, bias, padding=1)
            if i < LAYERS - 1:
                x = F.elu(x)
        return x
