"""Networks that are fixed: frozen, named by the content of their state, and seen to be as they were."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


def frozen(network: Module) -> Module:
    """The network in evaluation mode, with no gradient to its weights."""
    return network.eval().requires_grad_(False)


def state_of(network: nn.Module) -> dict[str, Any]:
    """All that the network computes with: its `state_dict`, and the buffers that this leaves out."""
    return {**network.state_dict(), **dict(network.named_parameters()), **dict(network.named_buffers())}


def state_digest(network: nn.Module) -> str:
    """The sha256 of all tensors that the network computes with, whatever their order, device and layout."""
    return digest_of(state_of(network))


def digest_of(state: Mapping[str, Any]) -> str:
    """The sha256 of named tensors, whatever their order, device and layout."""
    digest = hashlib.sha256()
    for name in sorted(state):
        item = state[name]
        if isinstance(item, Tensor):
            digest.update(f"{name} {item.dtype} {tuple(item.shape)}\n".encode())
            digest.update(_bits(item.detach().cpu()).numpy())
        else:  # what a module adds to its state with `get_extra_state`
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
    """What may change in a network: its tensors, their gradient flags, the modes and hooks of its parts.

    Args:
        copied: the tensors are copies, which later writes do not change.
    """
    tensors = [*network.named_parameters(), *network.named_buffers()]
    found: dict[str, Any] = {
        name: tensor.detach().clone() if copied else tensor.detach() for name, tensor in tensors
    }
    found |= {f"requires_grad of {name}": tensor.requires_grad for name, tensor in tensors}
    for name, part in network.named_modules():
        found[f"mode of {name or 'it'}"] = part.training
        hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks, part._backward_pre_hooks)
        found[f"hooks of {name or 'it'}"] = tuple(len(of_one_kind) for of_one_kind in hooks)
        found[f"methods of {name or 'it'}"] = tuple(sorted(k for k, v in vars(part).items() if callable(v)))
    return found


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the names of what differs or is missing on one side."""

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
