"""Networks with the parameter names of their published weights."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from data.errors import InputError
from data.frozen import misfit


class PretrainedNetwork(nn.Module):
    """A network that loads its published checkpoints as they are, also as the start of a training.

    A subclass makes the network and, if a checkpoint needs it, converts the checkpoint.
    """

    def __init__(self) -> None:
        super().__init__()
        self.model = self.made()

    def made(self) -> nn.Module:
        """Return the untrained network, whose weights are drawn from torch's global generator."""
        raise NotImplementedError

    def converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return a published checkpoint with the network's own names."""
        return dict(state)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised images (N, C, H, W)."""
        return self.model(images)

    def reset_parameters(self) -> None:
        """Draw new weights in the architecture's own way."""
        self.model.load_state_dict(self.made().state_dict())

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the state of the network without a prefix."""
        return self.model.state_dict(*args, **kwargs)

    def load_state_dict(self, state: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Load a published checkpoint, or the result of `state_dict`."""
        return self.model.load_state_dict(self.converted(state), strict, assign)

    def begin_from(self, state: Mapping[str, Tensor]) -> None:
        """Load all but the last layer, whose classes differ.

        Raises InputError if any other tensor is missing, unknown or of another shape.
        """
        head = self.head
        body = {name: value for name, value in self.converted(state).items() if _layer(name) != head}
        try:
            loaded = self.model.load_state_dict(body, strict=False)
        except RuntimeError as error:
            raise InputError(f"weights.start does not fit: tensors: {misfit(error)}") from error
        missing = [name for name in loaded.missing_keys if _layer(name) != head]
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        if wrong := missing + loaded.unexpected_keys:
            raise InputError(
                f"weights.start does not fit: {len(missing)} tensors are missing and "
                f"{len(loaded.unexpected_keys)} unknown, such as {wrong[0]}"
            )

    def fix_all_but_head(self) -> None:
        """Set everything but the last layer to evaluation mode without gradients."""
        self.model.eval().requires_grad_(False)
        self.model.get_submodule(self.head).requires_grad_(True)

    @property
    def head(self) -> str:
        """The name of the last layer, which gives the logits."""
        kinds = (nn.Linear, nn.Conv2d)
        return [name for name, layer in self.model.named_modules() if isinstance(layer, kinds)][-1]


def without_background(state: Mapping[str, Tensor], head: str) -> dict[str, Tensor]:
    """Return the state without class 0 of TensorFlow's ImageNet networks, which is not in the data set."""
    names = (f"{head}.weight", f"{head}.bias")
    return {name: value[1:] if name in names else value for name, value in state.items()}


def _layer(name: str) -> str:
    return name.rpartition(".")[0]
