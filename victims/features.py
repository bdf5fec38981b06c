"""Features of a trained classifier, for losses that compare images by them."""

from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from data.errors import InputError
from victims.int8_mobilenet import Same
from victims.victim import Victim


class Features(nn.Module):
    """Images (N, C, H, W) in [0, 1] of any size to what a victim's network holds after one of its layers.

    The victim's weights are read when features are first asked for: a purifier that was trained against
    them is used without.

    Args:
        victim: with weights from a file.
        layer: the layer's name in the victim's network, such as layer2.
    """

    version = 1

    def __init__(self, *, victim: Victim, layer: str) -> None:
        super().__init__()
        self.victim = victim
        try:
            # Padding by TensorFlow's rule depends on the image's size, so it is not traced through.
            self.upto = create_feature_extractor(
                victim.network, {layer: "features"}, tracer_kwargs={"leaf_modules": [Same]}
            )
        except ValueError as error:
            raise InputError(
                f"features.layer: expected a layer of the victim's network, got {layer!r}"
            ) from error
        self.ready = False

    def forward(self, images: Tensor) -> Tensor:
        """Features of images in [0, 1]; raises MissingError where the weights are not there."""
        if not self.ready:
            self.victim.load_frozen(self.victim.weights.load())
            self.ready = True
        return self.upto((images - self.victim.mean) / self.victim.std)["features"]
