"""Features of a trained classifier, for losses that compare the features of images."""

from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from data.errors import InputError
from victims.int8_mobilenet import Same
from victims.victim import Victim


class Features(nn.Module):
    """Maps images (N, C, H, W) in [0, 1] of any size to the output of a layer of a victim's network.

    The victim's weights are read when features are first computed, since a trained purifier does not need
    them.

    Args:
        victim: victim with weights from a file.
        layer: name of the layer in the victim's network, such as layer2.
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
        """Return the features of images in [0, 1]; raise MissingError if the weights are missing."""
        if not self.ready:
            self.victim.load_frozen(self.victim.weights.load())
            self.ready = True
        return self.upto((images - self.victim.mean) / self.victim.std)["features"]
