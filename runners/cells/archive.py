"""All that a table needs but data sets as one archive, out of a store and into another."""

import io
import json
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from data.errors import InputError
from runners.cells import manifest
from runners.store.artefact import megabytes
from runners.store.store import Store, fault, key_of

ARTEFACT = re.compile(r"(?P<stage>[a-z]+)/(?P<folder>[0-9a-f]{2})/(?P<key>(?P=folder)[0-9a-f]{62})")
LARGEST = 2**34  # bytes of one artefact in an archive


def _clean(store: Store, needed: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """The clean images of what is needed."""
    for stage, key in needed:
        path = store.root / stage / key[:2] / key
        if stage == "adversarial" and path.is_file():
            try:
                with path.open("rb") as file:
                    made_from = json.loads(file.readline())["made_from"]
            except (OSError, ValueError, KeyError, TypeError):  # damaged: counted as missing
                continue
            clean = {"stage": "clean", "images": made_from["images"]}
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
        + (f", {missing} missing" * bool(missing))
    )
    return 0


def imported(store: Store, console: Console, file: Path) -> int:
    """Add an archive's artefacts to the store. Each must be of a name, a recipe and a checksum that agree;
    an archive with anything else in it is refused, and adds nothing after it."""
    count = known = 0
    try:
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                place = ARTEFACT.fullmatch(member.name)
                if place is None or not member.isreg() or member.size > LARGEST:
                    raise InputError(f"import: {file}: expected artefacts only, got {member.name!r}")
                raw = archive.extractfile(member).read()
                if (wrong := fault(raw, place["stage"], place["key"])) is not None:
                    raise InputError(f"import: {file}: {member.name}: {wrong}")
                path = store.root / member.name
                if path.exists():
                    known += 1
                    continue
                store.write(path, raw)
                count += 1
    except (OSError, tarfile.TarError) as error:
        raise InputError(f"import: cannot read {file} ({error})") from error
    console.print(f"{count} files added, {known} were there already")
    return 0
