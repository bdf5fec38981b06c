"""Show or change what is in a store: python -m runners.store COMMAND

    status               show how far each table is: done, running, failed (and why), missing, time left
    retry [WORD ...]     run again every table that has failed chunks, with more words of its command
    list                 show sizes by table and by kind
    verify               check every checksum and name; damaged files are made again when they are needed
    gc [--yes]           remove what no table and no cell needs; without --yes, only count it
    gc --drop NAME       also forget the tables of that name, as list prints it
    export NAME FILE     write everything that a table needs, except data sets, as one archive
    import FILE          add an archive, so that the table's command computes nothing

Every run writes what its table needs before it begins (runners/store/manifest.py).
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from data.errors import InputError
from runners.evaluation.schema import check_records
from runners.exits import begin
from runners.output import Output
from runners.store.archive import export_table, import_archive
from runners.store.maintenance import collect_garbage, show_contents, verify
from runners.store.status import retry, show_status
from runners.store.store import Store


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m runners.store",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = os.environ.get("PURIFYBENCH_STORE", "results/store")
    parser.add_argument("--store", default=default, help=f"its folder (default: {default})")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("status", "list", "verify"):
        commands.add_parser(name)
    retrying = commands.add_parser("retry")
    retrying.add_argument("words", nargs="*", help="such as hydra/launcher=slurm shard=range(8)")
    collect = commands.add_parser("gc")
    collect.add_argument("--yes", action="store_true", help="remove, instead of counting")
    collect.add_argument("--drop", action="append", default=[], metavar="NAME", help="a table to forget")
    export = commands.add_parser("export")
    export.add_argument("name", help="of a table, as list prints it")
    for moved in (export, commands.add_parser("import")):
        moved.add_argument("file", type=Path)
    return parser.parse_args(words)


def main(words: Sequence[str], console: Console | None = None) -> int:
    """Run a command; return 0, 1 if something is damaged or failed again, or 2 if it cannot be run."""
    console = console or Output(highlight=False, soft_wrap=True)
    options = arguments(words)
    try:
        if options.command != "import" and not Path(options.store).is_dir():
            raise InputError(f"store {options.store}: expected a folder, got none; choose one with --store")
        store = Store(options.store)
        if options.command == "status":
            return show_status(store, console)
        if options.command == "retry":
            return retry(store, options.words, console)
        if options.command == "list":
            return show_contents(store, console)
        if options.command == "verify":
            return verify(store, console)
        if options.command == "gc":
            return collect_garbage(store, console, drop=options.drop, remove=options.yes)
        if options.command == "export":
            return export_table(store, console, options.name, options.file)
        return import_archive(store, console, options.file, check_records=check_records)
    except OSError as error:  # this user may not read a folder or a file of the store
        reason = error.strerror or error
        console.print(f"error: store {options.store}: {error.filename}: {reason}", style="red", markup=False)
    except InputError as error:
        console.print(f"error: {error}", style="red", markup=False)
    return 2


if __name__ == "__main__":
    begin()
    sys.exit(main(sys.argv[1:]))
