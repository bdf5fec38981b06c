"""Frozen networks: how to freeze them, identify them by their state, and detect changes."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def frozen(network: Module) -> Module:
    """Set the network to evaluation mode without gradients to its weights, and return it."""
    return network.eval().requires_grad_(False)


def state_of(network: nn.Module) -> dict[str, Any]:
    """Return all that the network computes with: its `state_dict`, and the buffers that this leaves out."""
    return {**network.state_dict(), **dict(network.named_parameters()), **dict(network.named_buffers())}


def state_digest(network: nn.Module) -> str:
    """Return the sha256 of all tensors with which the network computes, as in `digest_of`."""
    return digest_of(state_of(network))


def digest_of(state: Mapping[str, Any]) -> str:
    """Return the sha256 of named tensors, which does not depend on their order, device and layout."""
    digest = hashlib.sha256()
    for name in sorted(state):
        item = state[name]
        if isinstance(item, Tensor):
            digest.update(f"{name} {item.dtype} {tuple(item.shape)}\n".encode())
            digest.update(_bits(item.detach().cpu()).numpy())
        else:  # an object that a module adds to its state with `get_extra_state`
            digest.update(f"{name} {item!r}\n".encode())
    return digest.hexdigest()


def misfit(error: RuntimeError) -> str:
    """Return the objections of `load_state_dict` in one short line."""
    text = str(error)
    problems: dict[str, Iterable[str]] = {"of another shape": re.findall(r"size mismatch for (\S+):", text)}
    for line in text.splitlines():
        for what in ("missing", "unexpected"):
            if line.strip().lower().startswith(f"{what} key"):
                problems[what] = re.findall(r'"([^"]+)"', line)
    return misfits(problems) or text.splitlines()[0]


def misfits(problems: Mapping[str, Iterable[str]]) -> str:
    """Return the number of tensors with each problem, and their first names."""
    counted = {what: sorted(names) for what, names in problems.items()}
    return "; ".join(
        f"{len(names)} {what} ({', '.join(names[:4])}{', ...' if len(names) > 4 else ''})"
        for what, names in counted.items()
        if names
    )


def touchable(network: nn.Module, *, copied: bool = True) -> dict[str, Any]:
    """Return what may change in a network: tensors, gradient flags, and the modes and hooks of its parts.

    Args:
        copied: whether the tensors are copies, which later writes do not change.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    values: dict[str, Any] = {
        name: tensor.detach().clone() if copied else tensor.detach() for name, tensor in tensors
    }
    values |= {f"requires_grad of {name}": tensor.requires_grad for name, tensor in tensors}
    for name, part in network.named_modules():
        values[f"mode of {name or 'it'}"] = part.training
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        values[f"hooks of {name or 'it'}"] = tuple(len(kind_hooks) for kind_hooks in hooks)
        values[f"methods of {name or 'it'}"] = tuple(sorted(k for k, v in vars(part).items() if callable(v)))
    return values


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the names of values that differ or are missing on one side."""

    def same(name: str) -> bool:
        if name not in before or name not in now:
            return False
        old, new = before[name], now[name]
        if isinstance(old, Tensor):
            alike = (old.dtype, old.shape, old.device) == (new.dtype, new.shape, new.device)
            return alike and torch.equal(_bits(old), _bits(new))
        return old == new

    return [name for name in before | now if not same(name)]


def _bits(tensor: Tensor) -> Tensor:
    """Return the bytes of a tensor, in which NaN equals NaN."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
