"""advertorch's BPDAWrapper (Ding et al. 2019, https://arxiv.org/abs/1902.07623), and substitutes for it.

advertorch is no longer maintained, and its BPDA cannot be imported by itself: the rest of the package imports
a function that PyTorch has dropped. This module defines that function, which nothing here calls.
"""

import importlib

from torch import Tensor, nn
from torchvision.transforms.functional import gaussian_blur

gradcheck = importlib.import_module("torch.autograd.gradcheck")  # `import ... as` would bind its function
if not hasattr(gradcheck, "zero_gradients"):

    def _dropped(*_: object) -> None:
        raise NotImplementedError("torch.autograd.gradcheck.zero_gradients was dropped by PyTorch")

    gradcheck.zero_gradients = _dropped

from advertorch.bpda import BPDAWrapper  # noqa: E402

__all__ = ["BPDAWrapper", "GaussianBlur"]


class GaussianBlur(nn.Module):
    """A smooth substitute for purifiers that smooth.

    Args:
        kernel: side of the kernel, an odd number of pixels.
        sigma: standard deviation of the Gaussian in pixels.
    """

    def __init__(self, *, kernel: int = 5, sigma: float = 1.0) -> None:
        super().__init__()
        self.kernel, self.sigma = kernel, sigma

    def forward(self, images: Tensor) -> Tensor:
        """Return the blurred images (N, C, H, W)."""
        return gaussian_blur(images, self.kernel, self.sigma)
