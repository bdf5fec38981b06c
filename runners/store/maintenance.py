"""Maintenance of a store: what it holds, whether it is intact, and which artifacts are no longer needed."""

import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from data.errors import InputError
from runners.store.artifact import fault, megabytes, opened
from runners.store.manifest import dependents, manifests, names_of
from runners.store.store import LEASES, PARTS, Store

# Nothing is removed from other stages: weights are few, and may have been trained alone (scripts/train.py).
COLLECTED = ("clean", "adversarial", "purified", "records", "traits", "probe", "failures")
YOUNG = 3600.0  # seconds; the run of a younger file may not have written its manifest yet


def stages(store: Store) -> list[str]:
    """Return the kinds of artifacts that a store holds."""
    names = [entry.name for entry in os.scandir(store.root) if entry.is_dir()]
    return sorted(set(names) - {LEASES, PARTS})


def show_contents(store: Store, console: Console) -> int:
    """Print sizes by table and by kind; what two tables share counts for both.

    Returns the exit status.
    """
    sizes = {
        (stage, entry.name): entry.stat().st_size for stage in stages(store) for entry in store.files(stage)
    }
    title = Text(str(store.root))
    table = Table("table", "settings", "files", "MB", "missing", title=title, title_justify="left")

    def add(name: str, settings: str, found: list[int], missing: str = "") -> None:
        table.add_row(Text(name), Text(settings), str(len(found)), megabytes(sum(found)), missing)

    every, needed = manifests(store), set()
    for manifest in every:
        needed |= manifest.artifacts
        if manifest.is_table:
            missing = sum(("records", chunk[3]) not in sizes for c in manifest.cells.values() for chunk in c)
            settings = " ".join(word for word in manifest.request if not word.startswith("table="))
            present = [sizes[name] for name in manifest.artifacts if name in sizes]
            add(manifest.name, settings, present, str(missing or ""))
    if alone := [manifest.artifacts for manifest in every if not manifest.is_table]:
        add(f"{len(alone)} cells alone", "", [sizes[name] for name in set().union(*alone) & set(sizes)])
    needed |= set(dependents(store, needed))
    add("no table", "", [size for name, size in sizes.items() if name not in needed and name[0] in COLLECTED])
    console.print(table)
    kinds = Table("kind", "files", "MB")
    for stage in stages(store):
        stage_sizes = [size for (kind, _), size in sizes.items() if kind == stage]
        kinds.add_row(stage, str(len(stage_sizes)), megabytes(sum(stage_sizes)))
    kinds.add_row("all", str(len(sizes)), megabytes(sum(sizes.values())))
    console.print(kinds)
    return 0


def verify(store: Store, console: Console) -> int:
    """Read everything, and print what is damaged or misplaced. Returns the exit status, 1 if anything is."""
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
        console.print("the next run that needs a damaged file makes it again")
    return 1 if damaged else 0


def collect_garbage(store: Store, console: Console, *, drop: Sequence[str], remove: bool) -> int:
    """Remove or count what no manifest needs. Returns the exit status.

    Files of the last hour are kept, since a run may not have written its manifest yet.

    Args:
        drop: the names of tables to forget.
        remove: whether to remove the files, instead of only counting them.
    """
    found = {entry.name: entry.path for entry in store.files("manifests")}
    every = manifests(store)
    if unread := found.keys() - {manifest.artifact.key for manifest in every}:
        raise InputError(
            "gc: expected to read what every run needs, got manifests that are damaged or of another version "
            f"({', '.join(sorted(found[key] for key in unread))}); run the commands of their tables again, "
            "or remove these files"
        )
    if unknown := set(drop) - {manifest.name for manifest in every}:
        raise InputError(f"gc: no table is called {', '.join(unknown)}; {names_of(every)}")
    if not every:
        raise InputError(
            "gc: no run has said yet what it needs; run a table's command once, which computes nothing"
        )
    kept = [manifest for manifest in every if manifest.name not in drop]
    needed = set().union(*(manifest.artifacts for manifest in kept))
    needed |= set(dependents(store, needed))
    now = store.leases.now()
    paths = [
        Path(entry.path)
        for stage in (*COLLECTED, "manifests")
        for entry in store.files(stage)
        if (stage, entry.name) not in needed
    ]
    paths += (store.root / PARTS).glob("*")  # of processes that were killed while they wrote
    stats = {path: path.stat() for path in paths}
    old = {path: stat.st_size for path, stat in stats.items() if now - stat.st_mtime >= YOUNG}
    if remove:
        for path in old:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(
                    f"gc: cannot remove {path} ({error.strerror or error}); what was removed before it stays "
                    "removed"
                ) from error
        store.leases.clear()
    done = "removed" if remove else "would be removed; run again with --yes to do so"
    console.print(
        f"{len(old)} files, {megabytes(sum(old.values()))} MB {done}. Kept: {len(kept)} tables and cells, "
        "and the last hour."
    )
    return 0
