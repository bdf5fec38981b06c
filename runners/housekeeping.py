"""Keeping a store: python -m runners.housekeeping list | verify | gc | export NAME FILE | import FILE

    list                 sizes by table and by kind
    verify               every checksum and name; what is damaged is named, and is made again when needed
    gc [--yes]           what no table and no cell needs; without --yes it is only counted
    gc --drop NAME       also forget tables of that name (as list prints it)
    export NAME FILE     all that a table needs but data sets, as one archive
    import FILE          into another store, where the table's command then computes nothing

What is needed is written by every run before it begins (runners/evaluation/manifest.py).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import InputError
from runners.evaluation import manifest
from runners.evaluation.archive import exported, imported
from runners.exits import begin
from runners.output import Output
from runners.store.artifact import fault, megabytes, opened
from runners.store.store import CLAIMS, PARTS, Store

# Of other stages nothing is removed: weights are few, and may have been trained alone (scripts/train.py).
COLLECTED = ("clean", "adversarial", "purified", "records", "traits", "probe", "failures")
YOUNG = 3600.0  # seconds in which a run may not have said yet what it needs


def main(words: Sequence[str], console: Console | None = None) -> int:
    """Exit status 0; 1 where something is damaged; 2 for what cannot be done."""
    console = console or Output(highlight=False, soft_wrap=True)
    parser = argparse.ArgumentParser(
        prog="python -m runners.housekeeping",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = os.environ.get("PURIFYBENCH_STORE", "results/store")
    parser.add_argument("--store", default=default, help=f"its folder (default: {default})")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list")
    commands.add_parser("verify")
    collect = commands.add_parser("gc")
    collect.add_argument("--yes", action="store_true", help="remove, instead of counting")
    collect.add_argument("--drop", action="append", default=[], metavar="NAME", help="a table to forget")
    for command in ("export", "import"):
        moved = commands.add_parser(command)
        if command == "export":
            moved.add_argument("name", help="of a table, as list prints it")
        moved.add_argument("file", type=Path)
    asked = parser.parse_args(words)
    try:
        if asked.command != "import" and not Path(asked.store).is_dir():
            raise InputError(f"store {asked.store}: expected a folder, got none; choose one with --store")
        store = Store(asked.store)
        if asked.command == "list":
            return listed(store, console)
        if asked.command == "verify":
            return verified(store, console)
        if asked.command == "gc":
            return collected(store, console, drop=asked.drop, remove=asked.yes)
        if asked.command == "export":
            return exported(store, console, asked.name, asked.file)
        return imported(store, console, asked.file)
    except OSError as error:  # a folder or a file of the store that this user may not read
        reason = error.strerror or error
        console.print(f"error: store {asked.store}: {error.filename}: {reason}", style="red", markup=False)
    except InputError as error:
        console.print(f"error: {error}", style="red", markup=False)
    return 2


def stages(store: Store) -> list[str]:
    """The kinds of artefacts that a store holds."""
    names = [entry.name for entry in os.scandir(store.root) if entry.is_dir()]
    return sorted(set(names) - {CLAIMS, PARTS})


def sizes(store: Store) -> dict[tuple[str, str], int]:
    """Bytes of every artefact, by (stage, key)."""
    return {
        (stage, entry.name): entry.stat().st_size for stage in stages(store) for entry in store.files(stage)
    }


def listed(store: Store, console: Console) -> int:
    """Print sizes by table and by kind. What two tables share counts for both."""
    of, title = sizes(store), Text(str(store.root))
    table = Table("table", "settings", "files", "MB", "missing", title=title, title_justify="left")
    alone, tables = [], []
    for each in manifest.all_of(store):
        (tables if each.request.module == "runners.table" else alone).append(each)
    for each in tables:
        there = [of[name] for name in each.artefacts if name in of]
        missing = sum(("records", chunk[3]) not in of for chunks in each.cells.values() for chunk in chunks)
        settings = " ".join(w for w in each.request.recipe["words"] if not w.startswith("table="))
        table.add_row(each.request.name, settings, str(len(there)), megabytes(sum(there)), str(missing or ""))
    if alone:
        names = set().union(*(each.artefacts for each in alone)) & set(of)
        size = megabytes(sum(of[name] for name in names))
        table.add_row(f"{len(alone)} cells alone", "", str(len(names)), size, "")
    needed = set().union(*(each.artefacts for each in [*tables, *alone]))
    needed |= {name for name, _, _ in manifest.beside(store, needed)}
    rest = [size for name, size in of.items() if name not in needed and name[0] in COLLECTED]
    table.add_row("no table", "", str(len(rest)), megabytes(sum(rest)), "")
    console.print(table)
    kinds = Table("kind", "files", "MB")
    for stage in stages(store):
        held = [size for (kind, _), size in of.items() if kind == stage]
        kinds.add_row(stage, str(len(held)), megabytes(sum(held)))
    kinds.add_row("all", str(len(of)), megabytes(sum(of.values())))
    console.print(kinds)
    return 0


def verified(store: Store, console: Console) -> int:
    """Read everything; name what is damaged, or is not what its name says."""
    damaged, count, size = 0, 0, 0
    for stage in stages(store):
        for entry in store.files(stage):
            with opened(Path(entry.path)) as file:
                raw = file.read()
            count, size = count + 1, size + len(raw)
            if (wrong := fault(raw, stage, entry.name)) is not None:
                damaged += 1
                console.print(f"{wrong}: {entry.path}", markup=False)
    console.print(f"{count} files, {megabytes(size)} MB read: {damaged or 'none'} damaged")
    if damaged:
        console.print("what is damaged is made again by the next run that needs it")
    return 1 if damaged else 0


def collected(store: Store, console: Console, *, drop: Sequence[str], remove: bool) -> int:
    """Remove, or count, what no manifest needs; what is young, and of a kind that is not known, stays."""
    every = list(manifest.all_of(store))
    if unknown := set(drop) - {each.request.name for each in every}:
        raise InputError(f"gc: no table is called {', '.join(unknown)}; {manifest.names(every)}")
    if not every:
        raise InputError(
            "gc: no run has said yet what it needs; run a table's command once, which computes nothing"
        )
    kept = [each for each in every if each.request.name not in drop]
    needed = set().union(*(each.artefacts for each in kept))
    needed |= {name for name, _, _ in manifest.beside(store, needed)}
    now = store.leases.now()
    count = size = 0
    for stage in (*COLLECTED, "manifests"):
        for entry in store.files(stage):
            if (stage, entry.name) in needed or now - entry.stat().st_mtime < YOUNG:
                continue
            count, size = count + 1, size + entry.stat().st_size
            if remove:
                _remove(Path(entry.path))
    for part in (store.root / PARTS).glob("*"):  # of processes that were killed while they wrote
        if now - part.stat().st_mtime >= YOUNG:
            count, size = count + 1, size + part.stat().st_size
            if remove:
                _remove(part)
    if remove:
        store.leases.clear()
    done = "removed" if remove else "would be removed; run again with --yes to do so"
    console.print(
        f"{count} files, {megabytes(size)} MB {done}. Kept: {len(kept)} tables and cells, and the last hour."
    )
    return 0


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"gc: cannot remove {path} ({reason}); what was removed before it stays removed"
        ) from error


if __name__ == "__main__":
    begin()
    sys.exit(main(sys.argv[1:]))
