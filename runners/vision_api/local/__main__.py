"""Start a vision API on this machine, and print what to set in order to ask it.

    python -m runners.vision_api.local
    python -m runners.vision_api.local port=8200
    python -m runners.vision_api.local dataset=neurips2017 victim=imagenet/mobilenet_v2-int8

It answers everyone who calls it, so it listens on this machine's own address only.
"""

import threading
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from data.errors import InputError
from data.images import Dataset
from runners import app
from runners.evaluation.component import build, to_plain_dict
from runners.evaluation.devices import configure_torch
from runners.evaluation.stages import Worker
from runners.evaluation.weights import load_or_train
from runners.store.store import Store
from runners.vision_api.local.labeller import Labeller
from runners.vision_api.local.server import serve, write_google_key


def main(config: DictConfig) -> None:
    """Serve until the process is stopped."""
    device = configure_torch("cpu", tf32=False)
    worker = Worker(Store(config.store), device, "float32")
    dataset: Dataset = build(to_plain_dict(config.dataset))
    victim = to_plain_dict(config.victim)
    if victim["label_space"] != dataset.label_space:
        raise InputError(
            f"victim: expected one with the labels of {dataset.label_space}, got {victim['label_space']}"
        )
    labeller = Labeller(worker.load(load_or_train(victim, worker.store)), dataset.classes)
    port = serve(labeller, config.port).server_port
    address = f"http://127.0.0.1:{port}"
    lines = [f"serving {HydraConfig.get().runtime.choices['victim']}; in another terminal:"]
    lines += ["export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_DEFAULT_REGION=us-east-1"]
    lines += ["export VISION_KEY=local CLARIFAI_PAT=local"]
    try:
        key = write_google_key(Path(config.google_key), address)
        lines += [f"export GOOGLE_APPLICATION_CREDENTIALS={key} GOOGLE_CLOUD_UNIVERSE_DOMAIN=localhost"]
    except ModuleNotFoundError:
        lines += ["(Google: its client is not installed)"]
    endpoints = [f"services.{name}.endpoint={address}" for name in ("aws", "azure", "google")]
    try:
        from runners.vision_api.local.clarifai import serve_clarifai

        labeller.clarifai, clarifai = serve_clarifai(labeller, port + 1)  # the reference keeps it running
        endpoints += [f"services.clarifai.endpoint=http://127.0.0.1:{clarifai}"]
    except ModuleNotFoundError:
        lines += ["(Clarifai: its client is not installed)"]
    lines += [f"python -m runners.vision_api {' '.join(endpoints)} ...", "or"]
    lines += [f"python -m runners.vision_api vision_api/service=http service.url={address}/labels ..."]
    app.console.print("\n".join(lines), soft_wrap=True, highlight=False)
    threading.Event().wait()


if __name__ == "__main__":
    app.run(main, "vision_api_local")
