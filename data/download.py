"""Downloads that appear complete and verified, or not at all."""

import hashlib
import http.client
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from data.errors import InputError, MissingError

TIMEOUT = 10  # seconds without an answer
PIECE = 2**20  # bytes that are read at a time


def download(
    url: str,
    path: Path,
    *,
    sha256: str,
    progress: Callable[[int, int | None], None] = lambda done, total: None,
) -> None:
    """Download the file at `url` to `path`, without retries.

    Args:
        sha256: sha256 of the whole file, or its first digits.
        progress: function that is called with the number of bytes received, and the total if the server
            states it.

    Raises MissingError at once if the address cannot be reached or has no such file, and InputError if the
    received file is another one or cannot be written; `path` is then unchanged.
    """
    request = urllib.request.Request(url, headers={"User-Agent": "purifybench"})
    part = None
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            length = answer.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            path.parent.mkdir(parents=True, exist_ok=True)
            digest, done = hashlib.sha256(), 0
            with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".part-", delete=False) as file:
                part = Path(file.name)
                while piece := answer.read(PIECE):
                    file.write(piece)
                    digest.update(piece)
                    done += len(piece)
                    progress(done, total)
        received = digest.hexdigest()
        if not received.startswith(sha256):
            short = f"{done} of {total} bytes came" if total not in (None, done) else f"{done} bytes"
            raise InputError(f"{url}: expected sha256 {sha256}, got {received} ({short}); nothing was kept")
        part.chmod(0o644)
        part.replace(path)
    except urllib.error.HTTPError as error:
        raise MissingError(f"{url}: the server answers {error.code} {error.reason}") from error
    except (urllib.error.URLError, TimeoutError, http.client.HTTPException, ConnectionError) as error:
        reason = getattr(error, "reason", None) or error
        raise MissingError(
            f"{url}: cannot be downloaded here ({reason}); bring the file to {path} by other means"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
