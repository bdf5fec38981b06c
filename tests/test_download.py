"""Weights are downloaded on request, whole and verified or not at all; the server is our own."""

import hashlib
import http.server
import threading
import time

import pytest

from data import download as module
from data.download import download
from data.errors import InputError, MissingError
from data.weights import WeightFile

CONTENT = bytes(range(256)) * 20_000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/good")
            self.end_headers()
        elif self.path == "/absent":
            self.send_error(404)
        elif self.path == "/slow":
            time.sleep(1)
        else:
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write({"/cut": CONTENT[:-7], "/other": CONTENT[::-1]}.get(self.path, CONTENT))

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.mark.parametrize("page", ["good", "moved"])
def test_a_file_appears_whole(server, tmp_path, page):
    progress: list[tuple[int, int | None]] = []
    path = tmp_path / "new" / "w.pt"
    download(f"{server}/{page}", path, sha256=SHA[:8], progress=lambda *now: progress.append(now))
    assert path.read_bytes() == CONTENT
    assert progress[-1] == (len(CONTENT), len(CONTENT))
    assert [p.name for p in path.parent.iterdir()] == ["w.pt"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    ("page", "error", "message"),
    [
        ("absent", MissingError, "the server answers 404"),
        ("cut", InputError, f"{len(CONTENT) - 7} of {len(CONTENT)} bytes came.*nothing was kept"),
        ("other", InputError, f"expected sha256 {SHA}, got"),
        ("slow", MissingError, "cannot be downloaded here .*timed out.*by other means"),
    ],
)
def test_what_is_not_the_file_leaves_what_was_there(server, tmp_path, page, error, message, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.3)
    path = tmp_path / "w.pt"
    path.write_bytes(b"before")
    with pytest.raises(error, match=message):
        download(f"{server}/{page}", path, sha256=SHA)
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("host", ["127.0.0.1:9", "nowhere.invalid"])
def test_a_host_that_is_not_there_is_said_at_once(tmp_path, host):
    start = time.perf_counter()
    with pytest.raises(MissingError, match=r"cannot be downloaded here \("):
        download(f"http://{host}/w.pt", tmp_path / "w.pt", sha256=SHA)
    assert time.perf_counter() - start < 20
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_said(server, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="cannot be written"):
        download(f"{server}/good", tmp_path / "file" / "w.pt", sha256=SHA)


def test_only_an_address_is_one(tmp_path):
    for source, url in {
        "https://a.b/c.pt": "https://a.b/c.pt",
        "c.pt of https://a.b": None,
        "": None,
    }.items():
        assert WeightFile("c.pt", "0" * 8, source).url == url
    with pytest.raises(
        MissingError, match=r"python -m scripts\.fetch downloads them from https://a\.b/c\.pt"
    ):
        WeightFile(str(tmp_path / "c.pt"), "0" * 8, "https://a.b/c.pt").load()


def test_a_file_whose_sha256_nobody_publishes_is_read_only_when_the_user_names_it(tmp_path):
    (tmp_path / "w.pt").write_bytes(CONTENT)
    with pytest.raises(MissingError, match=f"no sha256 is set.*set weights.sha256={SHA[:16]}"):
        WeightFile(str(tmp_path / "w.pt"), None).load()
