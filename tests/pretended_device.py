"""A pretended device, for tests of what only a GPU would refuse.

Tensors on it say that they are on `meta`, and hold real values on the CPU. As CUDA does, the device refuses
to compute with a tensor of the CPU. It records every copy between the two and every value that Python reads,
because on a GPU each of them waits for all earlier work of the device.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
DEVICE = torch.device("meta")
BETWEEN = {aten.copy_.default, aten._to_copy.default}
WAITING = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default}
# CUDA accepts indices on the CPU and copies them to the device.
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
MAKERS = {torch.tensor, torch.as_tensor, Tensor.new_tensor}


class _There(Tensor):
    """A tensor of the pretended device."""

    held: Tensor

    @staticmethod
    def __new__(cls, real: Tensor) -> "_There":
        made = Tensor._make_wrapper_subclass(
            cls,
            real.size(),
            strides=real.stride(),
            storage_offset=real.storage_offset(),
            dtype=real.dtype,
            layout=real.layout,
            device=DEVICE,
        )
        made.held = real
        return made

    def __repr__(self, **_: Any) -> str:
        return f"there({self.held})"

    def tolist(self) -> Any:
        PretendedDevice.active.waits.append("tolist")
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return PretendedDevice.active.__torch_dispatch__(func, types, args, kwargs)  # in another thread


class _FromPython(TorchFunctionMode):
    """A mode in which lists become tensors of the device; PyTorch itself would make empty `meta` tensors."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (Tensor.__getitem__, Tensor.__setitem__) and isinstance(args[0], _There):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.tensor(item) if isinstance(item, list) else item for item in index)
            return func(args[0], index, *args[2:])
        if func not in MAKERS:
            return func(*args, **kwargs)
        device = kwargs.pop("device", args[0].device if func is Tensor.new_tensor else "cpu")
        if func is Tensor.new_tensor:
            kwargs.setdefault("dtype", args[0].dtype)
            args = args[1:]
        return torch.tensor(*args, **kwargs, device="cpu").to(device)


class PretendedDevice(TorchDispatchMode):
    """A mode in which `torch.device("meta")` computes, and in which its waits are recorded.

    Attributes:
        active: the mode that was entered last.
        waits: the operations that made the CPU and the device wait for each other, in order.
    """

    active: "PretendedDevice"

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.from_python = _FromPython()

    def __enter__(self) -> "PretendedDevice":
        PretendedDevice.active = self
        self.from_python.__enter__()
        return super().__enter__()

    def __exit__(self, *problem: Any) -> None:
        super().__exit__(*problem)
        self.from_python.__exit__(*problem)

    def put(self, tensor: Tensor) -> Tensor:
        """Return a copy of the tensor on the device, made before anything is measured."""
        return tensor if isinstance(tensor, _There) else _There(tensor.detach().clone())

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        asked = device is not None and torch.device(device).type == DEVICE.type
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        there = [tensor for tensor in tensors if isinstance(tensor, _There)]
        if not there and not asked:
            return func(*args, **kwargs)
        self._check(func, tensors, there, kwargs)
        if asked:
            kwargs["device"] = torch.device("cpu")
        made = func(*tree_map(_real, args), **tree_map(_real, kwargs))
        if func in BETWEEN and not asked and device is not None:
            return made  # a copy on the CPU
        if func is aten.copy_.default and not isinstance(args[0], _There):
            return args[0]
        made = tree_map(lambda one: _There(one) if isinstance(one, Tensor) else one, made)
        return made if asked else return_and_correct_aliasing(func, args, kwargs, made)

    def _check(self, func: Any, tensors: list[Tensor], there: list[Tensor], kwargs: dict[str, Any]) -> None:
        if func in BETWEEN:
            device = kwargs.get("device", DEVICE)
            if len(there) < len(tensors) or torch.device(device or DEVICE) != DEVICE:
                self.waits.append(str(func))
            return
        masked = func is aten.index.Tensor and any(tensor.dtype == torch.bool for tensor in tensors[1:])
        if masked or func in WAITING:
            self.waits.append(str(func))
        strangers = [tensor for tensor in tensors if not isinstance(tensor, _There) and tensor.ndim]
        if func in INDEXED and isinstance(tensors[0], _There):
            if strangers:
                self.waits.append(str(func))
            strangers = []
        if strangers:
            shape = tuple(strangers[0].shape)
            raise RuntimeError(f"{func}: expected all tensors on the device, got one on the CPU: {shape}")


def _real(item: Any) -> Any:
    return item.held if isinstance(item, _There) else item
