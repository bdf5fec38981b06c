"""How far each table is: python -m runners.status [--retry] [--store DIR]

What is done, running (where, since when), failed (why, and where its traceback lies), missing, and the time
left. Read from the store alone: nothing is loaded, trained or computed, and it may be asked from any host.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from data.errors import InputError
from runners.evaluation import manifest
from runners.evaluation.estimate import spoken
from runners.evaluation.failures import Failure
from runners.evaluation.manifest import Manifest
from runners.evaluation.survey import StoreStatus, survey
from runners.exits import begin
from runners.output import Output
from runners.store.store import Store

SHOWN = 10  # running and failed chunks of a table, one by one


def show(console: Console, of: Manifest, seen: StoreStatus) -> None:
    """Print a table's state."""
    words = " ".join(word for word in of.request.recipe["words"] if not word.startswith("table="))
    parts = [f"{seen.done} of {seen.total} chunks done"]
    parts += [f"{seen.in_hand} running"] if seen.in_hand else []
    parts += [f"[red]{len(seen.failed)} failed[/]"] if seen.failed else []
    parts += [f"{seen.missing} missing"] if seen.missing else []
    if seen.left and seen.running:
        workers = len(seen.running)
        parts.append(f"about {spoken(seen.left / workers)} left with {workers} at work")
    elif seen.left:
        parts.append(f"about {spoken(seen.left)} of one process left")
    console.print(f"[bold]{escape(of.request.name)}[/] {escape(words)}: " + ", ".join(parts), soft_wrap=True)
    for holder in list(seen.running.values())[:SHOWN]:
        told = f"{holder.what}: {holder.label}, {_ago(holder.since)}"
        console.print(f"  running  {escape(told)}", soft_wrap=True)
    reasons: dict[str, list[tuple[str, int, Failure]]] = {}
    for failed in seen.failed:
        reasons.setdefault(failed[2].reason, []).append(failed)
    for reason, every in list(reasons.items())[:SHOWN]:
        cell, i, failure = every[0]
        more = f" and {len(every) - 1} more" if len(every) > 1 else ""
        console.print(f"  [red]failed[/]   {escape(cell)}, chunk {i}{more}: {escape(reason)}", soft_wrap=True)
        console.print(f"           traceback: {escape(str(failure.path))}", soft_wrap=True)


def _ago(since: str) -> str:
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
    except ValueError:
        return "since a moment ago"
    return f"for {spoken(max(seconds, 1))}"


def main(words: Sequence[str], console: Console | None = None) -> int:
    """Exit status 0; of a retry 1 where something failed again."""
    parser = argparse.ArgumentParser(prog="python -m runners.status", description=__doc__.splitlines()[0])
    parser.add_argument("--store", default=os.environ.get("PURIFYBENCH_STORE", "results/store"))
    parser.add_argument("--retry", action="store_true", help="run again every table that has failed chunks")
    parser.add_argument(
        "also", nargs="*", help="with --retry: more words, such as hydra/launcher=slurm shard=range(8)"
    )
    asked = parser.parse_args(words)
    console = console or Output(highlight=False)
    if not Path(asked.store).is_dir():
        told = f"error: store {asked.store}: expected a folder, got none; nothing was run here yet"
        console.print(escape(told), soft_wrap=True)
        return 2
    store = Store(asked.store)
    alive = store.leases.alive()
    every = [(of, survey(store, of, alive)) for of in manifest.all_of(store)]
    tables = [pair for pair in every if pair[0].request.module == "runners.table" or not pair[1].whole]
    if asked.retry:
        where = [] if any(word.startswith("store=") for word in asked.also) else [f"store={asked.store}"]
        return _retry_all([of for of, seen in every if seen.failed], [*where, *asked.also], console)
    for of, seen in tables:
        show(console, of, seen)
    for holder in [h for name, h in alive.items() if not any(name in seen.running for _, seen in every)]:
        console.print(
            f"other work: {escape(f'{holder.what}: {holder.label}, {_ago(holder.since)}')}", soft_wrap=True
        )
    if whole := len(every) - len(tables):
        console.print(f"{whole} cells evaluated alone are done")
    if not every:
        console.print(f"store {escape(asked.store)}: no table was asked for yet")
    return 0


def _retry_all(failed: Sequence[Manifest], also: Sequence[str], console: Console) -> int:
    if not failed:
        console.print("nothing has failed")
    status = 0
    for of in failed:
        try:
            commands = [of.request.command(words) for words in _steps(also)]
        except InputError as error:
            console.print(f"error: {escape(str(error))}", soft_wrap=True)
            status = 2
            continue
        for command in commands:
            console.print(f"again: python -m {escape(shlex.join(command))}", soft_wrap=True)
            ended = subprocess.run([sys.executable, "-m", *command]).returncode
        status = max(status, ended)
    return status


def _steps(also: Sequence[str]) -> list[list[str]]:
    """The words of each command: the jobs first where words ask for jobs, then what renders their results."""
    alone = [word for word in also if not word.startswith("shard=")]
    if len(alone) == len(also):
        return [alone]
    return [[*also, "--multirun"], [*alone, "workers=0"]]


if __name__ == "__main__":
    begin()
    sys.exit(main(sys.argv[1:]))
