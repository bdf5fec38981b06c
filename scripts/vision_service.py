"""A vision API on this machine, with one of our victims behind it: to try the benchmark of vision APIs
without an account, and to test it. It speaks the formats of AWS, Azure, Google and api/http on one port, and
Clarifai's on the next.

    python -m scripts.vision_service dataset=neurips2017 victim=imagenet/mobilenet_v2-int8 port=8099

Whoever calls it is let in: it is for this machine only.
"""

import io
import json
import threading
import time
from collections import Counter
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image

from data.errors import InputError
from data.images import Dataset
from runners import app
from runners.components import build, plain, prepare
from runners.store import Store
from runners.work import Bench, settle
from scripts.vision_formats import FORMATS, Asked, Format, Labels
from victims.victim import Victim

FAULTS = ("busy", "broken", "slow", "cut", "malformed", "expired")


class Labeller:
    """A PNG to the names of the victim's best classes, with their probabilities.

    Attributes:
        calls: by vendor, each one that reached the service, also those that a fault befell.
        faults: what befalls the next calls, one each and in this order: of FAULTS, or None.
        fewer: labels that every answer lacks at its end.
    """

    def __init__(self, victim: Victim, classes: Sequence[str], *, slow: float = 60) -> None:
        self.victim, self.classes, self.slow = victim, list(classes), slow
        self.calls: Counter[str] = Counter()
        self.faults: list[str | None] = []
        self.fewer = 0
        self.lock = threading.Lock()

    def label(self, asked: Asked) -> Labels:
        """At most so many labels, best first."""
        pixels = np.asarray(Image.open(io.BytesIO(asked.image)).convert("RGB"), dtype=np.float32) / 255
        with self.lock, torch.no_grad():
            logits = self.victim(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0))[0]
        shares, places = logits.softmax(0).sort(descending=True, stable=True)
        pairs = zip(places.tolist(), shares.tolist(), strict=True)
        found = [(self.classes[place], share) for place, share in pairs if share >= asked.least]
        return found[: max(min(asked.most, 20) - self.fewer, 0)]

    def called(self, vendor: str) -> str | None:
        """Count a call; the fault that befalls it."""
        with self.lock:
            self.calls[vendor] += 1
            return self.faults.pop(0) if self.faults else None


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection; `server.labeller` knows the labels."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Whichever vendor's request it is."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/token":  # of Google's credentials
            return self._token()
        vendor = next((name for name, f in FORMATS.items() if f.path == path), None)
        if vendor is None:
            return self._send(404, {"error": f"no such path: {path}"})
        fault = self.server.labeller.called(vendor)
        return self._befall(FORMATS[vendor], fault) if fault else self._answer(FORMATS[vendor], body)

    def _answer(self, form: Format, body: bytes) -> None:
        if form.secret and not self.headers.get(form.secret):
            return self._send(*form.refused)
        try:
            labels = self.server.labeller.label(form.read(self.path, self.headers, body))
        except (ValueError, KeyError, OSError) as error:
            return self._send(400, {"__type": "InvalidParameterException", "message": str(error)})
        return self._send(200, form.write(labels))

    def _befall(self, form: Format, fault: str) -> None:
        if fault == "slow":
            time.sleep(self.server.labeller.slow)
        if fault in ("slow", "cut"):
            self.close_connection = True
            self.connection.close()
        elif fault == "malformed":
            self._send(200, None)
        else:
            status, content = {"busy": form.busy, "broken": form.broken, "expired": form.refused}[fault]
            self._send(status, content, {"Retry-After": "0"} if fault == "busy" else {})

    def _token(self) -> None:
        if self.server.labeller.faults[:1] == ["expired"]:
            self.server.labeller.faults.pop(0)
            return self._send(400, {"error": "invalid_grant", "error_description": "Token has been expired"})
        return self._send(200, {"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})

    def _send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        body = b'{"half' if content is None else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *parts: Any) -> None:
        """Nothing: the runner says what it asks."""


def serve(labeller: Labeller, port: int = 0) -> ThreadingHTTPServer:
    """The service on this machine's own address, in a thread; port 0 is any that is free."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    except OSError as error:
        raise InputError(f"port: cannot listen on {port} ({error.strerror})") from error
    server.daemon_threads = True
    server.labeller = labeller
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def main(config: DictConfig) -> None:
    """Serve until stopped."""
    device = settle("cpu", tf32=False)
    bench = Bench(Store(config.store), device, "float32")
    dataset: Dataset = build(plain(config.dataset))
    victim = plain(config.victim)
    if victim["label_space"] != dataset.label_space:
        raise InputError(
            f"victim: expected one with the labels of {dataset.label_space}, got {victim['label_space']}"
        )
    labeller = Labeller(bench.component(prepare(victim, bench.store)), dataset.classes)
    port = serve(labeller, config.port).server_port
    app.console.print(
        f"AWS, Azure, Google: http://127.0.0.1:{port}; api/http: http://127.0.0.1:{port}/labels"
    )
    try:
        from scripts.vision_service_grpc import serve_clarifai
    except ModuleNotFoundError:
        app.console.print("Clarifai: not served, its client is not installed")
    else:
        app.console.print(f"Clarifai: http://127.0.0.1:{serve_clarifai(labeller, port + 1)[1]}")
    threading.Event().wait()


if __name__ == "__main__":
    app.run(main, "vision_service")
