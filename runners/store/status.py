"""The progress of each table, read from the store alone: nothing is loaded, trained or computed."""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape

from data.errors import InputError
from runners.output import duration
from runners.store.failures import Failure, failure_artifact, failure_of
from runners.store.holder import Holder
from runners.store.manifest import Manifest, manifests
from runners.store.store import Store

SHOWN = 10  # running and failed chunks of a table that are shown one by one


@dataclass
class StoreStatus:
    """The chunks of a table's cells by their state; a chunk that two cells need counts twice.

    Attributes:
        running: the process that works on each task, by the task's key.
        failed: the label of the cell, the number of the chunk, and the failure.
        in_hand: how many chunks are being worked on.
        left: an estimate of the work that is neither done nor failed, in seconds of one process.
    """

    done: int = 0
    missing: int = 0
    running: dict[str, Holder] = field(default_factory=dict)
    failed: list[tuple[str, int, Failure]] = field(default_factory=list)
    in_hand: int = 0
    left: float = 0.0

    @property
    def total(self) -> int:
        return self.done + self.missing + self.in_hand + len(self.failed)

    @property
    def complete(self) -> bool:
        return self.done == self.total


def status_of(store: Store, manifest: Manifest, alive: Mapping[str, Holder] | None = None) -> StoreStatus:
    """Return how far a table is; `alive` are the leases of living processes, if they are already known."""
    alive = store.leases.alive() if alive is None else alive
    stages = ("records", "failures", "adversarial")
    present = {stage: {entry.name for entry in store.files(stage)} for stage in stages}
    status, work = StoreStatus(), set()
    for label, chunks in manifest.cells.items():
        for i, (crafting, purifying, _, records) in enumerate(chunks):
            if records in present["records"]:
                status.done += 1
                continue
            if holder := alive.get(purifying) or alive.get(crafting):
                status.running[purifying if purifying in alive else crafting] = holder
                status.in_hand += 1
            elif failure := _failure(store, (records, crafting), present["failures"]):
                status.failed.append((label, i, failure))
                continue
            else:
                status.missing += 1
            work |= {purifying} if crafting in present["adversarial"] else {purifying, crafting}
    status.left = sum(manifest.seconds.get(key, 0.0) for key in work)
    return status


def _failure(store: Store, keys: Sequence[str], present: set[str]) -> Failure | None:
    for key in keys:
        if failure_artifact(key).key in present and (failure := failure_of(store, key)):
            return failure
    return None


def show_status(store: Store, console: Console) -> int:
    """Print how far every table is and what else is being worked on. Returns the exit status."""
    alive = store.leases.alive()
    every = [(manifest, status_of(store, manifest, alive)) for manifest in manifests(store)]
    shown = [pair for pair in every if pair[0].is_table or not pair[1].complete]
    for manifest, status in shown:
        _show(console, manifest, status)
    known = {key for _, status in every for key in status.running}
    for holder in (holder for key, holder in alive.items() if key not in known):
        console.print(f"other work: {escape(_work(holder))}", soft_wrap=True)
    if complete := len(every) - len(shown):
        console.print(f"{complete} cells evaluated alone are done")
    if not every:
        console.print(f"store {escape(str(store.root))}: no table has been requested yet")
    return 0


def _show(console: Console, manifest: Manifest, status: StoreStatus) -> None:
    words = " ".join(word for word in manifest.request if not word.startswith("table="))
    parts = [f"{status.done} of {status.total} chunks done"]
    parts += [f"{status.in_hand} running"] if status.in_hand else []
    parts += [f"[red]{len(status.failed)} failed[/]"] if status.failed else []
    parts += [f"{status.missing} missing"] if status.missing else []
    if status.left and (workers := len(status.running)):
        parts.append(f"about {duration(status.left / workers)} left with {workers} at work")
    elif status.left:
        parts.append(f"about {duration(status.left)} of one process left")
    console.print(f"[bold]{escape(manifest.name)}[/] {escape(words)}: " + ", ".join(parts), soft_wrap=True)
    for holder in list(status.running.values())[:SHOWN]:
        console.print(f"  running  {escape(_work(holder))}", soft_wrap=True)
    reasons: dict[str, list[tuple[str, int, Failure]]] = {}
    for failed in status.failed:
        reasons.setdefault(failed[2].reason, []).append(failed)
    for reason, chunks in list(reasons.items())[:SHOWN]:
        label, i, failure = chunks[0]
        more = f" and {len(chunks) - 1} more" if len(chunks) > 1 else ""
        console.print(
            f"  [red]failed[/]   {escape(label)}, chunk {i}{more}: {escape(reason)}", soft_wrap=True
        )
        console.print(f"           traceback: {escape(str(failure.path))}", soft_wrap=True)


def _work(holder: Holder) -> str:
    """Return which process works on what and for how long, as text."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(holder.since)).total_seconds()
        since = f"for {duration(max(seconds, 1))}"
    except ValueError:
        since = "since a moment ago"
    return f"{holder.what}: {holder.label}, {since}"


def retry(store: Store, also: Sequence[str], console: Console) -> int:
    """Run every command again that has failed chunks, with more words. Returns the highest exit status.

    If the words ask for several jobs, the jobs run first, and then a command that shows their results.
    """
    failed = [manifest for manifest in manifests(store) if status_of(store, manifest).failed]
    if not failed:
        console.print("nothing has failed")
    if not any(word.startswith("store=") for word in also):
        also = [f"store={store.root}", *also]
    alone = [word for word in also if not word.startswith("shard=")]
    steps = [alone] if len(alone) == len(also) else [[*also, "--multirun"], [*alone, "workers=0"]]
    status = 0
    for manifest in failed:
        try:
            commands = [manifest.command(words) for words in steps]
        except InputError as error:
            console.print(f"error: {escape(str(error))}", soft_wrap=True)
            status = 2
            continue
        for command in commands:
            console.print(f"again: python -m {escape(shlex.join(command))}", soft_wrap=True)
            code = subprocess.run([sys.executable, "-m", *command]).returncode
            status = max(status, code if code >= 0 else 128 - code)  # as a shell reports a signal
    return status
