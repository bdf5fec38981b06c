"""A vision API on this machine, with one of our victims behind it: to try the benchmark of vision APIs
without an account, and to test it. It speaks the formats of AWS, Azure, Google and api/http on one port, and
Clarifai's on the next.

    python -m scripts.vision_service dataset=neurips2017 victim=imagenet/mobilenet_v2-int8 port=8099

Whoever calls it is let in: it is for this machine only.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from data.errors import InputError
from data.images import Dataset
from runners import app
from runners.cells.components import build, plain, prepare
from runners.store.store import Store
from runners.work.bench import Bench, settle
from scripts.vision_formats import FORMATS, Format
from scripts.vision_labeller import Labeller

FAULTS = ("busy", "broken", "slow", "cut", "malformed", "expired")


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
            self._send(
                status, content, {"Retry-After": self.server.labeller.after} if fault == "busy" else {}
            )

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
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def write_google_key(path: Path, address: str, universe: str = "localhost") -> Path:
    """A key file as Google gives them out; the key is made here and is no secret.

    With Google's own `universe` its tokens are given by this service, but google-auth then asks Google itself
    about the account, in the background. With another, which GOOGLE_CLOUD_UNIVERSE_DOMAIN must name too, the
    key signs its tokens itself, and nothing leaves this machine.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    about = {"type": "service_account", "project_id": "local", "private_key_id": "local"}
    about |= {"client_email": "local@localhost", "private_key": key.decode(), "token_uri": f"{address}/token"}
    about["universe_domain"] = universe
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(about))
    return path


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
    address = f"http://127.0.0.1:{port}"
    lines = [f"serving {HydraConfig.get().runtime.choices['victim']}; in another terminal:"]
    lines += ["export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local AWS_DEFAULT_REGION=us-east-1"]
    lines += ["export VISION_KEY=local CLARIFAI_PAT=local"]
    try:
        key = write_google_key(Path(config.google_key), address)
        lines += [f"export GOOGLE_APPLICATION_CREDENTIALS={key} GOOGLE_CLOUD_UNIVERSE_DOMAIN=localhost"]
    except ModuleNotFoundError:
        lines += ["(Google: its client is not installed)"]
    told = [f"apis.{name}.endpoint={address}" for name in ("aws", "azure", "google")]
    try:
        from scripts.vision_service_grpc import serve_clarifai

        labeller.clarifai, clarifai = serve_clarifai(labeller, port + 1)  # unreferenced it would end
        told += [f"apis.clarifai.endpoint=http://127.0.0.1:{clarifai}"]
    except ModuleNotFoundError:
        lines += ["(Clarifai: its client is not installed)"]
    lines += [f"python -m runners.api_table {' '.join(told)} ...", "or"]
    lines += [f"python -m runners.api_table victim=api/http victim.url={address}/labels ..."]
    app.console.print("\n".join(lines), soft_wrap=True, highlight=False)
    threading.Event().wait()


if __name__ == "__main__":
    app.run(main, "vision_service")
