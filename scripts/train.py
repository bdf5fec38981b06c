"""Train what a purifier learns: python -m scripts.train purifier=ncis dataset=cifar10

The result is kept in the store, where every evaluation of that purifier on that data set finds it. A
training that was stopped goes on from its last checkpoint.
"""

import time

from omegaconf import DictConfig, OmegaConf
from rich.progress import Progress

from data.errors import InputError
from runners import app
from runners.components import plain, prepare
from runners.store import Store


def main(config: DictConfig) -> None:
    """One purifier, from the config that would evaluate it."""
    OmegaConf.resolve(config)
    store, start = Store(config.store), time.perf_counter()
    with Progress(console=app.console, transient=True) as progress:
        bar = progress.add_task("training", total=1.0)
        spec = prepare(
            plain(config.purifier), store, progress=lambda share: progress.update(bar, completed=share)
        )
    if spec.trained is None:
        raise InputError("this purifier learns nothing here: it has no network, or its weights are a file")
    app.console.print(
        f"weights: {store.path(spec.trained)}\nsha256:  {spec.weights_sha256}\n"
        f"seconds: {time.perf_counter() - start:.0f}",
        soft_wrap=True,
    )


if __name__ == "__main__":
    app.run(main, "evaluate")
