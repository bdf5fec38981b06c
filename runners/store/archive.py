"""Archives of everything that a table needs, except data sets, which another store can import."""

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import safetensors.torch
from rich.console import Console

from data.errors import InputError
from runners import untrusted
from runners.store import manifest
from runners.store.artifact import Artifact, DamagedError, fault, held_in, megabytes, opened, place
from runners.store.manifest import dependents, manifests, names_of
from runners.store.store import Store

TENSORS = ("adversarial", "clean", "probe", "purified", "subset", "weights")  # stages that safetensors hold
KINDS = ("manifests", "records", "traits", *TENSORS)  # all stages that an archive may hold
MEMBER = re.compile(
    rf"(?P<stage>{'|'.join(KINDS)})/(?P<folder>[0-9a-f]{{2}})/(?P<key>(?P=folder)[0-9a-f]{{62}})"
)
LARGEST = 2**32  # bytes of one artifact in an archive
HEADER = {"sha256": str, "made_from": {"stage": str}}


def _clean(store: Store, needed: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield the artifacts of the clean images that belong to the needed adversarial examples."""
    for stage, key in needed:
        path = place(store.root, stage, key)
        if stage == "adversarial" and path.is_file():
            try:
                with opened(path) as file:
                    header = untrusted.parsed(file.readline(), str(path), {"made_from": {"images": str}})
            except (OSError, InputError):  # damaged: counted as missing
                continue
            clean = Artifact("clean", {"images": header["made_from"]["images"]})
            if store.has(clean):
                yield "clean", clean.key


def export_table(store: Store, console: Console, name: str, file: Path) -> int:
    """Write a table's records, images, weights and probes as one tar archive, completely or not at all."""
    every = manifests(store)
    chosen = [request.artifacts for request in every if request.name == name]
    if not chosen:
        raise InputError(f"export: no table is called {name!r}; {names_of(every)}")
    needed = set().union(*chosen)
    needed |= {dependent for dependent in dependents(store, needed) if dependent[0] == "probe"}
    needed |= {("subset", entry.name) for entry in store.files("subset")} | set(_clean(store, needed))
    part = file.with_name(file.name + ".part")
    count = missing = 0
    try:
        with tarfile.open(part, "w") as archive:
            for stage, key in sorted(needed):
                path = place(store.root, stage, key)
                if stage == "purified" and not path.exists():
                    continue  # it is made again when it is needed
                raw = path.read_bytes() if path.is_file() else b""
                if fault(raw, stage, key) is not None:
                    missing += 1
                    continue
                member = tarfile.TarInfo(f"{stage}/{key[:2]}/{key}")
                member.size, member.mtime = len(raw), int(path.stat().st_mtime)
                archive.addfile(member, io.BytesIO(raw))
                count += 1
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"export: cannot write {file} ({error.strerror or error})") from error
    lacking = f", {missing} missing" if missing else ""
    console.print(f"{file}: {count} files, {megabytes(file.stat().st_size)} MB{lacking}", markup=False)
    return 0


def import_archive(
    store: Store, console: Console, file: Path, *, check_records: Callable[[bytes, str], None]
) -> int:
    """Add the artifacts of an archive to the store.

    Each must be of a kind that an export writes, with a name, inputs and a checksum that agree, and a content
    that can be read. An archive that contains anything else is refused from there on.

    Args:
        check_records: raises InputError for content that is not a chunk of records.
    """
    count = known = 0
    try:
        if not file.is_file():
            raise InputError(f"import: cannot read {file} (expected a file)")
        size = file.stat().st_size
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                name = MEMBER.fullmatch(member.name)
                if name is None or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse:
                    raise InputError(f"import: {file}: expected artifacts only, got {member.name!r:.200}")
                if member.size > min(LARGEST, size - member.offset_data):
                    raise InputError(f"import: {file}: {member.name} is cut short, or above {LARGEST} bytes")
                raw = archive.extractfile(member).read()
                what = f"import: {file}: {member.name}"
                content = _checked(raw, name["stage"], name["key"], what)
                if name["stage"] == "records":
                    check_records(content, what)
                path = store.root / member.name
                if store.content(path) is not None:  # a damaged one is replaced
                    known += 1
                    continue
                store.write(path, raw)
                count += 1
    except InputError:
        raise
    except (OSError, tarfile.TarError, ValueError, RecursionError) as error:
        raise InputError(f"import: cannot read {file} ({error})") from error
    console.print(f"{count} files added; {known} existed already")
    return 0


def _checked(raw: bytes, stage: str, key: str, what: str) -> bytes:
    """Return the content of a foreign artifact after it is checked.

    Raises InputError if it is not what its name says, or cannot be used.
    """
    untrusted.parsed(raw.partition(b"\n")[0], what, HEADER)
    try:
        content = held_in(raw, stage, key)
    except DamagedError as error:
        raise InputError(f"{what}: {error}") from error
    if stage == "manifests" and manifest.parse(content, Path(key)) is None:
        raise InputError(f"{what}: expected a manifest of version {manifest.VERSION}, got another one")
    if stage == "traits" and content != b"passed" and not content.isdigit():  # a number of classes
        raise InputError(f"{what}: expected checks that were passed")
    if stage in TENSORS:
        with untrusted.readable(what):
            safetensors.torch.load(content)
    return content
