"""All that a table needs but data sets as one archive, out of a store and into another."""

import io
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
from rich.console import Console

from data.errors import InputError
from runners import untrusted
from runners.evaluation import manifest
from runners.evaluation.records import from_parquet
from runners.evaluation.schema import OF_CHUNK
from runners.store.artifact import DamagedError, fault, held_in, megabytes, opened
from runners.store.store import Store, key_of

TENSORS = ("adversarial", "clean", "probe", "purified", "subset", "weights")  # stages that safetensors hold
KINDS = ("manifests", "records", "traits", *TENSORS)  # all that an export writes
ARTEFACT = re.compile(
    rf"(?P<stage>{'|'.join(KINDS)})/(?P<folder>[0-9a-f]{{2}})/(?P<key>(?P=folder)[0-9a-f]{{62}})"
)
LARGEST = 2**32  # bytes of one artefact in an archive
HEADER = {"sha256": str, "made_from": {"stage": str}}
COLUMNS = {column.name for column in OF_CHUNK}


def _clean(store: Store, needed: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The clean images of what is needed."""
    for stage, key in needed:
        path = store.root / stage / key[:2] / key
        if stage == "adversarial" and path.is_file():
            try:
                with opened(path) as file:
                    header = untrusted.parsed(file.readline(), str(path), {"made_from": {"images": str}})
            except (OSError, InputError):  # damaged: counted as missing
                continue
            clean = {"stage": "clean", "images": header["made_from"]["images"]}
            if store.has(clean):
                yield "clean", key_of(clean)


def exported(store: Store, console: Console, name: str, file: Path) -> int:
    """Write a table's records, images, weights and probes as one tar archive, whole or not at all."""
    every = [each for each in manifest.all_of(store) if each.request.name == name]
    if not every:
        raise InputError(f"export: no table is called {name!r}; {manifest.names(manifest.all_of(store))}")
    needed = set().union(*(each.artefacts for each in every))
    needed |= {
        other for other, _, made_from in manifest.beside(store, needed) if made_from["stage"] == "probe"
    }
    needed |= {("subset", entry.name) for entry in store.files("subset")} | set(_clean(store, needed))
    part = file.with_name(file.name + ".part")
    count = missing = 0
    try:
        with tarfile.open(part, "w") as archive:
            for stage, key in sorted(needed):
                path = store.root / stage / key[:2] / key
                if stage == "purified" and not path.exists():
                    continue  # it is made again when it is needed
                raw = path.read_bytes() if path.is_file() else b""
                if fault(raw, stage, key) is not None:
                    missing += 1
                    continue
                told = tarfile.TarInfo(f"{stage}/{key[:2]}/{key}")
                told.size, told.mtime = len(raw), int(path.stat().st_mtime)
                archive.addfile(told, io.BytesIO(raw))
                count += 1
        part.replace(file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise InputError(f"export: cannot write {file} ({error.strerror or error})") from error
    console.print(
        f"{file}: {count} files, {megabytes(file.stat().st_size)} MB"
        + (f", {missing} missing" * bool(missing)),
        markup=False,
    )
    return 0


def imported(store: Store, console: Console, file: Path) -> int:
    """Add an archive's artefacts to the store.

    Each must be of a kind that an export writes, with a name, a recipe and a checksum that agree, and a
    content that can be read. An archive with anything else in it is refused, and adds nothing after it.
    """
    count = known = 0
    try:
        if not file.is_file():
            raise InputError(f"import: cannot read {file} (expected a file)")
        size = file.stat().st_size
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                place = ARTEFACT.fullmatch(member.name)
                if place is None or member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.sparse:
                    raise InputError(f"import: {file}: expected artefacts only, got {member.name!r:.200}")
                if member.size > min(LARGEST, size - member.offset_data):
                    raise InputError(f"import: {file}: {member.name} is cut short, or above {LARGEST} bytes")
                raw = archive.extractfile(member).read()
                _check(raw, place["stage"], place["key"], f"import: {file}: {member.name}")
                path = store.root / member.name
                if path.exists():
                    known += 1
                    continue
                store.write(path, raw)
                count += 1
    except InputError:
        raise
    except (OSError, tarfile.TarError, ValueError, RecursionError) as error:
        raise InputError(f"import: cannot read {file} ({error})") from error
    console.print(f"{count} files added, {known} were there already")
    return 0


def _check(raw: bytes, stage: str, key: str, what: str) -> None:
    """Raise InputError for an artefact of someone else that is not what its name says, or cannot be used."""
    untrusted.parsed(raw.partition(b"\n")[0], what, HEADER)
    try:
        content = held_in(raw, stage, key)
    except DamagedError as error:
        raise InputError(f"{what}: {error}") from error
    if stage == "manifests" and manifest.read(content, Path(key)) is None:
        raise InputError(f"{what}: expected a manifest of version {manifest.VERSION}, got another one")
    with untrusted.readable(what):
        if stage in TENSORS:
            safetensors.torch.load(content)
        elif stage == "records" and (lacking := COLUMNS - {*from_parquet(content)}):
            raise InputError(f"{what}: expected records; they lack {', '.join(sorted(lacking))}")
        elif stage == "traits" and content != b"passed":
            raise InputError(f"{what}: expected checks that were passed")
