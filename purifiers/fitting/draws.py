"""Random numbers that are computed from a count, not drawn in a sequence.

Each image has its own stream: a 64-bit hash (SplitMix64: Steele et al. 2014, Fast Splittable
Pseudorandom Number Generators, https://doi.org/10.1145/2660193.2660195) of its seed, of the number
of calls so far, and of the position in the tensor. An image's numbers therefore depend neither on its
batch nor on the device, and the numbers of many images are computed at once on their device.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def _signed(word: int) -> int:
    return word - 2**64 if word >= 2**63 else word


GOLDEN = _signed(0x9E3779B97F4A7C15)
FIRST = _signed(0xBF58476D1CE4E5B9)
SECOND = _signed(0x94D049BB133111EB)


class Draws:
    """One random stream per image; each call draws new numbers.

    Args:
        seeds: one seed for each image.
        device: device on which the numbers are computed.
    """

    def __init__(self, seeds: Sequence[int], device: torch.device) -> None:
        self.keys = _hash(torch.tensor([_signed(seed % 2**64) for seed in seeds], device=device))
        self.count = torch.zeros((), dtype=torch.int64, device=device)

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Return (B, *shape) standard normal numbers in float32."""
        size = math.prod(shape)
        u, v = self._bits(size, torch.int32).float().mul_(2**-32).chunk(2, 1)  # [-1/2, 1/2]
        # Box and Muller 1958. A float32 in [-1/2, 1/2] may be -1/2 itself, which would give log(0).
        radius = u.add_(0.5).clamp_min_(2**-26).log_().mul_(-2).sqrt_()
        angle = v.mul_(2 * math.pi)
        both = torch.cat([angle.cos() * radius, angle.sin() * radius], 1)
        return both[:, :size].view(-1, *shape)

    def chosen(self, share: float, shape: Sequence[int]) -> Tensor:
        """Return (B, *shape) booleans that are true with probability `share` (to 16 bits)."""
        bits = self._bits(math.prod(shape), torch.int16)[:, : math.prod(shape)]
        return (bits.int() < round(share * 2**16) - 2**15).view(-1, *shape)

    def below(self, bound: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Return (B, *shape) int64 integers in [0, bound); `bound` (1 to 2**31) may differ by place.

        All values are equally likely, up to one part in 2**32.
        """
        size = math.prod(shape)
        bits = self._bits(size, torch.int32)[:, :size].long() + 2**31
        return (bits.view(-1, *shape) * bound) >> 32

    def _bits(self, size: int, kind: torch.dtype) -> Tensor:
        """Return (B, n) integers, uniform over all values of `kind`; n is even and at least `size`."""
        words = 2 * -(-size * kind.itemsize // 16)
        self.count += 1
        start = _hash(self.keys + self.count * GOLDEN)
        place = torch.arange(1, words + 1, device=start.device) * GOLDEN
        return _hash(start.unsqueeze(1) + place).view(kind)


def _hash(x: Tensor) -> Tensor:
    """Apply SplitMix64's finaliser. Its shifts are logical, unlike PyTorch's, so sign bits are masked."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * FIRST
    x = (x ^ ((x >> 27) & (2**37 - 1))) * SECOND
    return x ^ ((x >> 31) & (2**33 - 1))
