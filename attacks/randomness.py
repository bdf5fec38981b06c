"""Makes a library's attack draw each image's randomness from that image's own seed.

Attack libraries draw for the whole batch from a global generator, so that an image's random start
depends on the other images of its batch. Inside `per_image_randomness`, every random operation whose first
dimension is the batch is drawn row by row, from one generator for each image. Any other random operation
is an error, because it belongs to no image, unless there is only one image.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
IN_PLACE = {
    aten.uniform_.default,
    aten.normal_.default,
    aten.random_.to,
    getattr(aten.random_, "from"),
}
LIKE = {
    aten.rand_like.default: ("uniform_", ()),
    aten.randn_like.default: ("normal_", ()),
    aten.rand.default: ("uniform_", ()),
    aten.randn.default: ("normal_", ()),
}


class _PerImage(TorchDispatchMode):
    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None) -> Any:
        kwargs = kwargs or {}
        if func in IN_PLACE:
            return self._fill(args[0], func.overloadpacket.__name__, args[1:], func)
        if func in LIKE:
            method, extra = LIKE[func]
            shape = args[0].shape if isinstance(args[0], Tensor) else args[0]
            device = kwargs.get("device") or (args[0].device if isinstance(args[0], Tensor) else "cpu")
            empty = torch.empty(shape, device=device, dtype=kwargs.get("dtype") or _dtype(args[0]))
            return self._fill(empty, method, extra, func)
        if torch.Tag.nondeterministic_seeded in func.tags:
            if len(self.generators) == 1 and str(kwargs.get("device", "cpu")) == "cpu":
                return self._alone(func, args, kwargs)
            raise RuntimeError(f"this attack draws {func} for the whole batch: no image owns it")
        return func(*args, **kwargs)

    def _fill(self, tensor: Tensor, method: str, extra: Sequence[Any], func: Any) -> Tensor:
        if tensor.ndim < 1 or len(tensor) != len(self.generators):
            if len(self.generators) == 1:
                drawn = torch.empty(tensor.shape, dtype=tensor.dtype)
                with torch.no_grad():
                    return tensor.copy_(getattr(drawn, method)(*extra, generator=self.generators[0]))
            raise RuntimeError(
                f"this attack draws {func} of shape {tuple(tensor.shape)}: "
                f"no image owns it, expected the batch ({len(self.generators)}) as its first dimension"
            )
        with torch.no_grad():
            for row, generator in zip(tensor, self.generators, strict=True):
                drawn = torch.empty(row.shape, dtype=tensor.dtype)
                row.copy_(getattr(drawn, method)(*extra, generator=generator))
        return tensor

    def _alone(self, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run a random operation on the CPU for the only image."""
        generator, before = self.generators[0], torch.get_rng_state()
        torch.set_rng_state(generator.get_state())
        try:
            return func(*args, **kwargs)
        finally:
            generator.set_state(torch.get_rng_state())
            torch.set_rng_state(before)


def _dtype(like: Any) -> torch.dtype | None:
    return like.dtype if isinstance(like, Tensor) else None


@contextmanager
def per_image_randomness(seeds: Sequence[int]) -> Iterator[None]:
    """Draw random rows from the images' own seeds in this thread, regardless of the global seeds."""
    with _PerImage(seeds):
        yield
