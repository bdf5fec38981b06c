"""timm's networks (Wightman 2019, https://github.com/huggingface/pytorch-image-models)."""

from collections.abc import Mapping

from torch import Tensor, nn

from data.errors import InputError, MissingError
from victims.pretrained import PretrainedNetwork, without_background


class Timm(PretrainedNetwork):
    """A classifier of timm by name, for images (N, 3, H, W), without trained weights.

    Args:
        name: timm's name of the network.
        classes: number of logits.
        background: whether to drop the additional first class of checkpoints ported from TensorFlow.
    """

    version = 1

    def __init__(self, *, name: str, classes: int = 1000, background: bool = False) -> None:
        self.name, self.classes, self.background = name, classes, background
        super().__init__()

    def made(self) -> nn.Module:
        """Return the network; raise MissingError without timm, InputError if the name is unknown to timm."""
        try:
            import timm
        except ImportError as error:
            raise MissingError("this victim needs timm: pip install -e '.[timm]'") from error
        if not timm.is_model(self.name):
            raise InputError(f"victim.network.name: expected one of timm's models, got {self.name!r}")
        return timm.create_model(self.name, pretrained=False, num_classes=self.classes)

    def converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the checkpoint with as many classes as the network has."""
        head = state.get(f"{self.head}.bias")
        if self.background and head is not None and len(head) == self.classes + 1:
            return without_background(state, self.head)
        return dict(state)
