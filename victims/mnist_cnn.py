"""Two convolutions and two linear layers: LeCun et al. 1998, http://yann.lecun.com/exdb/publis/."""

import torch.nn.functional as F
from torch import Tensor, nn


class MnistCNN(nn.Module):
    """A network for images (N, 1, 28, 28), with a ReLU and 2x2 max-pooling after each convolution.

    RIDE's classifier has 20 and 50 filters of 5x5 without padding, and 500 hidden units (as in its demo).
    advertorch's LeNet-5, from which the parameter names are taken, has 32 and 64 filters of 3x3 with padding,
    and 200 hidden units.

    Args:
        filters: filters of the two convolutions.
        kernel: side of their kernels.
        padding: width of the zeros around each convolution's input.
        hidden: units between the linear layers.
        classes: number of logits.
    """

    version = 1

    def __init__(
        self,
        *,
        filters: tuple[int, int] = (20, 50),
        kernel: int = 5,
        padding: int = 0,
        hidden: int = 500,
        classes: int = 10,
    ) -> None:
        super().__init__()
        first, second = filters
        self.conv1 = nn.Conv2d(1, first, kernel, padding=padding)
        self.conv2 = nn.Conv2d(first, second, kernel, padding=padding)
        shrunk = 2 * padding - kernel + 1
        side = ((28 + shrunk) // 2 + shrunk) // 2
        self.linear1 = nn.Linear(second * side**2, hidden)
        self.linear2 = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised images (N, 1, 28, 28)."""
        x = F.max_pool2d(F.relu(self.conv1(images)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.linear2(F.relu(self.linear1(x.flatten(1))))
