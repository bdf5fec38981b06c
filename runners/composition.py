"""Composes configs from Python as the command line composes them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from data.errors import InputError
from runners.config_errors import CONFIG_ERRORS, explain
from runners.places import CONFIGS


def composed(
    config: str, words: Sequence[str], *, config_dir: Path | str | None = None
) -> tuple[DictConfig, dict[str, str]]:
    """Return the resolved config of a command, and the chosen name of each of its groups.

    Args:
        config: the name of the command's config, such as "evaluate".
        words: what would be typed on the command line.
        config_dir: a folder with further configs, as the option --config-dir names it.

    Raises InputError, with the message of the command line, if a word names a config or an option that does
    not exist.
    """
    words = list(words)
    if config_dir is not None:
        folder = Path(config_dir).expanduser().resolve()
        if not folder.is_dir():
            raise InputError(f"config_dir: expected a folder with configs, got {config_dir}")
        words.append(f"hydra.searchpath=['file://{folder}']")
    try:
        with _alone(), initialize_config_dir(str(CONFIGS), version_base="1.3"):
            full = compose(config, words, return_hydra_config=True)
        choices = dict(full.hydra.runtime.choices)
        own = OmegaConf.masked_copy(full, [name for name in full if name != "hydra"])
        OmegaConf.resolve(own)
    except (*CONFIG_ERRORS, ValueError) as error:
        raise InputError(explain(error, config, words)) from error
    return own, choices


@contextmanager
def _alone() -> Iterator[None]:
    """Clear Hydra's global state inside; a Hydra application of the caller is restored afterwards."""
    previous, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
    try:
        yield
    finally:
        GlobalHydra.instance().hydra = previous
