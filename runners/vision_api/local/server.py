"""A vision API on this machine, with one of our victims behind it.

It is there to try the benchmark without an account, and to test it. This module serves the formats of AWS,
Azure, Google and the service `http` on one port; clarifai.py serves Clarifai's format on the next port.
"""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from data.errors import InputError
from runners.vision_api.local.formats import FORMATS, Format
from runners.vision_api.local.labeller import Labeller

FAULTS = ("busy", "broken", "slow", "cut", "malformed", "expired")


class _Handler(BaseHTTPRequestHandler):
    """Answers the requests of one connection; `server.labeller` knows the labels."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else an answer's body waits 40 ms until its headers are acknowledged

    def do_POST(self) -> None:
        """Answer a request in the format of any vendor."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = urlsplit(self.path).path
        if path == "/token":  # requested by Google's credentials
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
        """Log nothing, because the runner reports what it asks."""


def serve(labeller: Labeller, port: int = 0) -> ThreadingHTTPServer:
    """Serve on this machine's own address in a thread; return the server. Port 0 takes any free port."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
    except OSError as error:
        raise InputError(f"port: cannot listen on {port} ({error.strerror})") from error
    server.daemon_threads = True
    server.labeller = labeller
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    return server


def write_google_key(path: Path, address: str, universe: str = "localhost") -> Path:
    """Write a key file in Google's form; the key is made here and is no secret.

    With Google's own `universe`, this service issues the tokens, but google-auth then asks Google itself
    about the account in the background. With another universe, which GOOGLE_CLOUD_UNIVERSE_DOMAIN must name
    too, the key signs its tokens itself and nothing leaves this machine.
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
