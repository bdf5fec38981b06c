"""RobustBench's models (Croce et al. 2021, https://arxiv.org/abs/2010.09670)."""

from pathlib import Path

from torch import Tensor, nn

from data.errors import InputError, MissingError
from data.weights import WeightFile


class RobustBench(nn.Module):
    """A model of RobustBench by name, which owns its normalisation. Nothing is downloaded.

    The file is compared with `sha256` before RobustBench reads it with torch.load, which executes nothing in
    a file since PyTorch 2.6.

    Args:
        name, dataset, threat_model: RobustBench's names.
        model_dir: RobustBench's folder of models; the weights are in <dataset>/<threat_model>/<name>.pt.
        sha256: sha256 of that file, or its first digits (at least 8), as in `WeightFile`.
        label_space: name of the meaning of the labels.
        robust: ball in which the model was adversarially trained, as in Victim.
    """

    version = 1
    descriptive = frozenset({"model_dir"})

    def __init__(
        self,
        *,
        name: str,
        model_dir: str,
        label_space: str,
        sha256: str | None,
        dataset: str = "cifar10",
        threat_model: str = "Linf",
        robust: dict[str, str | float] | None = None,
    ) -> None:
        super().__init__()
        try:
            import timm  # which robustbench needs
            from robustbench.utils import load_model
        except ImportError as error:
            raise MissingError("this victim needs robustbench: install it beside purifybench") from error
        in_timm = f"{name.lower().replace('-', '_')}_{dataset.lower()}_{threat_model.lower()}"
        if timm.is_model(in_timm) or (dataset == "imagenet" and "Standard" in name):
            raise InputError(
                "victim.name: expected a model whose weights RobustBench reads from a file in "
                f"victim.model_dir; it downloads those of {name!r} by itself"
            )
        path = Path(model_dir) / dataset / threat_model / f"{name}.pt"
        if not path.is_file():
            raise MissingError(
                f"{path} does not exist (set DATA_DIR, or victim.model_dir): robustbench.utils.load_model "
                "downloads it"
            )
        WeightFile(path=str(path), sha256=sha256, what="victim").digest()
        self.label_space = label_space
        try:
            self.model = load_model(name, model_dir=model_dir, dataset=dataset, threat_model=threat_model)
        except (KeyError, ValueError) as error:
            raise InputError(
                f"victim.name: expected a model of RobustBench, got {name!r} ({error})"
            ) from error

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images in [0, 1]."""
        return self.model(images)
