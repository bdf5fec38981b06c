"""Image classifiers of Hugging Face's transformers (Wolf et al. 2020, https://arxiv.org/abs/1910.03771)."""

from pathlib import Path

from torch import Tensor, nn

from data.errors import InputError, MissingError


class HuggingFace(nn.Module):
    """An image classifier that was saved to disk with `save_pretrained`, for normalised images.

    Args:
        path: path of the folder with config.json and model.safetensors.
    """

    version = 1
    descriptive = frozenset({"path"})

    def __init__(self, *, path: str) -> None:
        super().__init__()
        try:
            from transformers import AutoModelForImageClassification
        except ImportError as error:
            raise MissingError("this victim needs transformers: install it beside purifybench") from error
        if not (Path(path) / "config.json").is_file():
            raise MissingError(
                f"{path} does not exist, or holds no config.json: save the model there, or "
                "set victim.network.path"
            )
        try:
            self.model = AutoModelForImageClassification.from_pretrained(
                path, local_files_only=True, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            raise InputError(
                f"{path}: expected an image classifier, got {str(error).splitlines()[0]}"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised images (N, 3, H, W)."""
        return self.model(pixel_values=images).logits
