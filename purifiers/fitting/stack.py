"""The layers of many small networks that are stacked along the channels of one tensor.

There are two ways to compute them. `Stack` uses grouped convolutions, which are fast on a CPU. `ProductStack`
uses batched matrix products, which arithmetic predicts to be faster on a GPU (docs/gpu.md). Their results are
equal up to rounding. `STACKS` says which one a device uses.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from purifiers.fitting.draws import Draws


@dataclass(frozen=True)
class Stack:
    """Layers of `size` independent networks that are stacked along the channels.

    Attributes:
        convolution: name of this method of convolution, for records.
        layout: memory format of images and of the weights of convolutions.
    """

    convolution: ClassVar[str] = "grouped"
    layout: ClassVar[torch.memory_format] = torch.channels_last

    size: int
    draws: Draws

    def conv(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: str
    ) -> Tensor:
        """Apply a convolution that keeps the size (divided by the stride), for odd and even kernels.

        `padding` is the mode of F.pad. An even kernel has its extra row and column at the far end.
        """
        k = weight.shape[-1]
        if padding == "constant" and k % 2:  # the convolution itself pads with zeros
            return F.conv2d(x, weight, bias, stride=stride, padding=k // 2, groups=self.size)
        if k > 1:
            near, far = (k - 1) // 2, k // 2
            x = F.pad(x, (near, far, near, far), mode=padding)
        return F.conv2d(x, weight, bias, stride=stride, groups=self.size)

    def conv_blocks(self, x: Tensor, weight: Tensor, bias: Tensor, *, stride: int) -> Tensor:
        """Apply `conv` of an odd kernel with zero padding as one of stride 1 over blocks of stride x stride.

        The results are equal up to rounding. On a CPU the gradient with respect to x takes less than half
        the time (docs/performance.md).
        """
        k = weight.shape[-1]
        whole = -(-k // stride) * stride  # side of the kernel, padded with zeros to whole blocks
        weight = F.pad(weight, (0, whole - k, 0, whole - k))
        near = k // 2
        down, right = ((-(-side // stride) - 1) * stride + whole - side - near for side in x.shape[2:])
        blocks = F.pixel_unshuffle(F.pad(x, (near, right, near, down)), stride)
        blocks = self.laid_out(blocks)
        return F.conv2d(blocks, F.pixel_unshuffle(weight, stride), bias, groups=self.size)

    def conv_back(
        self, x: Tensor, weight: Tensor, bias: Tensor, *, stride: int, size: Sequence[int]
    ) -> Tensor:
        """Apply a transposed convolution with zero padding, to images of `size`; weights (in, out, k, k)."""
        k = weight.shape[-1]
        beyond = [side - 1 - stride * (small - 1) for side, small in zip(size, x.shape[2:], strict=True)]
        return F.conv_transpose2d(
            x, weight, bias, stride=stride, padding=k // 2, output_padding=beyond, groups=self.size
        )

    def norm(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Apply batch normalisation to each image by its own statistics."""
        return F.batch_norm(x, None, None, scale, shift, training=True)

    def doubled(self, x: Tensor) -> Tensor:
        """Enlarge bilinearly to twice the height and width."""
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Join the channels of each network's parts."""
        last = [part.permute(0, 2, 3, 1).unflatten(3, (self.size, -1)) for part in parts]
        return torch.cat(last, 4).flatten(3).permute(0, 3, 1, 2)

    def dropout(self, x: Tensor, share: float) -> Tensor:
        """Set a random share of the values to zero and enlarge the others, in training and evaluation."""
        n, _, height, width = x.shape
        kept = self.draws.chosen(1 - share, (n, height, width, x.shape[1] // self.size))
        return x * self.beside(kept.permute(0, 1, 4, 2, 3)).to(x.dtype).div_(1 - share)

    def beside(self, images: Tensor) -> Tensor:
        """Stack the networks' images (B, C, H, W) or (B, n, C, H, W) to (n, B*C, H, W)."""
        images = images if images.ndim == 5 else images.unsqueeze(1)
        return self.laid_out(images.transpose(0, 1).flatten(1, 2))

    def apart(self, x: Tensor) -> Tensor:
        """Map (n, B*C, H, W) to (B, n, C, H, W)."""
        return x.unflatten(1, (self.size, -1)).transpose(0, 1)

    def laid_out(self, x: Tensor) -> Tensor:
        """Return images or weights in the stack's memory format, and other tensors contiguous."""
        return x.contiguous(memory_format=self.layout if x.ndim == 4 else torch.contiguous_format)


@dataclass(frozen=True)
class ProductStack(Stack):
    """The same layers, where each convolution is one batched matrix product of each network's weights with
    copies of the windows of its padded input.

    Images have their channels first. No gradient needs atomic additions, whose order on a GPU differs from
    call to call; those of PyTorch's own padding and bilinear enlargement do.
    """

    convolution: ClassVar[str] = "products"
    layout: ClassVar[torch.memory_format] = torch.contiguous_format

    def conv(
        self, x: Tensor, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: str
    ) -> Tensor:
        """See `Stack.conv`."""
        k, n = weight.shape[-1], len(x)
        if k > 1:
            near, far = (k - 1) // 2, k // 2
            x = F.pad(x, (near, far, near, far)) if padding == "constant" else padded(x, near, far, padding)
        windows = x.unflatten(1, (self.size, -1)).unfold(3, k, stride).unfold(4, k, stride)
        height, width = windows.shape[3:5]  # of (n, B, C, height, width, k, k), which is a view
        columns = windows.permute(1, 2, 5, 6, 0, 3, 4).reshape(self.size, -1, n * height * width)
        rows = weight.reshape(self.size, -1, columns.shape[1])
        product = torch.bmm(rows, columns).view(self.size, -1, n, height, width)
        product = product.permute(2, 0, 1, 3, 4).reshape(n, -1, height, width)
        return product if bias is None else product + bias.view(-1, 1, 1)

    def conv_blocks(self, x: Tensor, weight: Tensor, bias: Tensor, *, stride: int) -> Tensor:
        """See `Stack.conv_blocks`; blocks do not help a matrix product."""
        return self.conv(x, weight, bias, stride=stride, padding="constant")

    def conv_back(
        self, x: Tensor, weight: Tensor, bias: Tensor, *, stride: int, size: Sequence[int]
    ) -> Tensor:
        """See `Stack.conv_back`."""
        n, k = len(x), weight.shape[-1]
        columns = weight.unflatten(0, (self.size, -1)).flatten(2).mT @ x.unflatten(
            1, (self.size, -1)
        ).flatten(3)
        folded = F.fold(columns.flatten(0, 1), tuple(size), k, padding=k // 2, stride=stride)
        return folded.view(n, -1, *size) + bias.view(-1, 1, 1)

    def doubled(self, x: Tensor) -> Tensor:
        """Enlarge bilinearly to twice the height and width, one dimension at a time."""
        for dim in (2, 3):
            near, far = x.narrow(dim, 0, 1), x.narrow(dim, x.shape[dim] - 1, 1)
            before = torch.cat([near, x.narrow(dim, 0, x.shape[dim] - 1)], dim)
            after = torch.cat([x.narrow(dim, 1, x.shape[dim] - 1), far], dim)
            x = torch.stack([x.lerp(before, 0.25), x.lerp(after, 0.25)], dim + 1).flatten(dim, dim + 1)
        return x

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Join the channels of each network's parts."""
        return torch.cat([part.unflatten(1, (self.size, -1)) for part in parts], 2).flatten(1, 2)


STACKS: dict[str, type[Stack]] = {"cpu": Stack, "cuda": ProductStack}  # by the device's type


def padded(x: Tensor, near: int, far: int, mode: str) -> Tensor:
    """Pad images (N, C, H, W) by `near` and `far` pixels; the mode is "reflect" or "replicate"."""
    return _Padding.apply(x, near, far, mode)


class _Padding(torch.autograd.Function):
    """F.pad with a gradient that sums in a fixed order; on CUDA, the order of F.pad's own gradient varies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, near: int, far: int, mode: str) -> Tensor:
        """Return the padded images."""
        ctx.near, ctx.far, ctx.mode = near, far, mode
        return F.pad(x, (near, far, near, far), mode=mode)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        """Add the gradient of each border to that of the pixels which it repeats."""
        near, far = ctx.near, ctx.far
        for dim in (3, 2):
            size = gradient.shape[dim] - near - far
            first, last = gradient.narrow(dim, 0, near), gradient.narrow(dim, near + size, far)
            gradient = gradient.narrow(dim, near, size).clone()
            if ctx.mode == "reflect":
                gradient.narrow(dim, 1, near).add_(first.flip(dim))
                gradient.narrow(dim, size - 1 - far, far).add_(last.flip(dim))
            else:
                gradient.narrow(dim, 0, 1).add_(first.sum(dim, keepdim=True))
                gradient.narrow(dim, size - 1, 1).add_(last.sum(dim, keepdim=True))
        return gradient, None, None, None
