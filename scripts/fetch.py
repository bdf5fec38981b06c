"""Download the weight files that the config of a victim or a purifier names.

    python -m scripts.fetch victim=imagenet/resnet50
    python -m scripts.fetch purifier=sr-edsr
    python -m scripts.fetch knowledge=transfer victim@knowledge.victims.first=resnet20

The files are written to DATA_DIR. A file appears complete and verified by its sha256, or not at all. Nothing
in it is executed.
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("evaluate")

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.progress import DownloadColumn, Progress

from data.download import download
from data.errors import InputError
from data.weights import WeightFile
from runners.evaluation.component import build, to_plain_dict


def main(config: DictConfig) -> None:
    """Download all weight files of the parts that the command line names."""
    if not config.data_dir or not Path(config.data_dir).is_dir():
        raise InputError(
            f"data_dir: expected a folder to download into, got {config.data_dir!r}: make it and set DATA_DIR"
        )
    OmegaConf.resolve(config)
    named = {word.split("=")[0].split(".")[0].split("@")[-1] for word in HydraConfig.get().overrides.task}
    parts = [part for part in ("victim", "purifier", "knowledge") if part in named]
    files = [file for part in parts for file in _files(to_plain_dict(config[part]))]
    if not files:
        raise InputError(
            "fetch: expected a victim=... or purifier=... whose weights are a file, got none (the others "
            "are trained: python -m scripts.train)"
        )
    for file in files:
        if Path(file.path).exists():
            app.tell(f"{file.path}: is there, sha256 {file.digest()}")
            continue
        if file.url is None or file.sha256 is None:
            raise InputError(
                f"weights {file.path}: no address to download a verified file from; {file.source or 'yours'}"
            )
        columns = (*Progress.get_default_columns()[:3], DownloadColumn())
        with Progress(*columns, console=app.console, transient=True) as progress:
            bar = progress.add_task(Path(file.path).name, total=None)
            download(
                file.url,
                Path(file.path),
                sha256=file.sha256,
                progress=lambda done, total, bar=bar: progress.update(bar, completed=done, total=total),
            )
        app.tell(f"{file.path}: downloaded, sha256 {file.digest()}")


def _files(config: Any) -> Iterator[WeightFile]:
    """Yield every weight file in a config, at any depth."""
    if isinstance(config, list):
        for item in config:
            yield from _files(item)
    if isinstance(config, dict):
        if config.get("_target_") == f"{WeightFile.__module__}.{WeightFile.__name__}":
            yield build(config)
            return
        for name, item in config.items():
            if name != "shipped":  # shipped weights come with the project
                yield from _files(item)


if __name__ == "__main__":
    app.run(main, "evaluate")
