"""Write the pages of docs/ that are made from the code, and the table that README.md shows.

    python -m scripts.document
    make docs

docs/records.md is made from the record schema, docs/command-line.md from the docstrings and configs of the
commands, docs/configs.md from the configs, and the block of README.md from results/tables/ddip-table1.csv.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from runners import usage
from runners.evaluation.schema import COLUMNS
from runners.places import CONFIGS
from runners.tables import console
from runners.tables.reading import Table

ROOT = CONFIGS.parent
README = ROOT / "README.md"
SHOWN = ROOT / "results" / "tables" / "ddip-table1.csv"
BEGIN, END = "<!-- table: python -m scripts.document -->\n", "<!-- end of table -->"
GROUPS = [
    "dataset",
    "victim",
    "attack",
    "knowledge",
    "purifier",
    "trace",
    "denoiser",
    "training",
    "recipe",
    "table",
]
WITHOUT_CONFIG = ["runners/store/__main__.py", "scripts/tables.py", "scripts/ship.py"]
RUNS = re.compile(r'^ +app\.run\(main, "(\w+)"', re.MULTILINE)

RECORDS = """# Record files

Every evaluated [cell](glossary.md#cell) has one record file in `results/records/`, called
`<dataset>-<victim>-<attack>-<knowledge>-<purifier>-n<images>-<key>.parquet`. It is a Parquet file with one
row per image, which `pandas.read_parquet` reads. Its metadata contains the provenance of the cell as JSON,
under the key `purifybench`.

This page is written by `python -m scripts.document` from `runners/evaluation/schema.py`.

## What the provenance contains

It contains everything that is needed to evaluate the cell again: the resolved configs of all parts and their
versions; the number of images, seed, split and [chunk](glossary.md#chunk) size; the sha256 of the weights and
of the ordered image ids; the git commit, and whether the working tree had changes; the versions of Python,
PyTorch, NumPy, scikit-image and each attack library; device, threads and precision; command line and time.
The provenance also names the chunks that came from the [store](glossary.md#store) and were computed by
another commit, with other versions or on another device.

## Evaluate a record file again

```bash
python -m runners.replay 1a2b3c4d
```

The argument is the key at the end of the file's name, or the file itself. The command evaluates the cell
again from this one file, in an empty store, and compares all columns except those of the kind *cost*. On the
same device and with the same versions, values must be equal to the bit; otherwise, decisions must be equal.
The command prints which values differ, on which image, and what differs between the two runs. The exit status
is 0 if the records are equal, 1 if they are not, and 2 if the cell cannot be evaluated here, because a
component is missing or has another version, weights are different, or the file is damaged.

Trained weights are read from the store (`store=`) if their sha256 is the recorded one, and are trained again
otherwise. Real data is looked for in `DATA_DIR` only. A record file is read as plain data: nothing in it is
resolved or executed, and it can only name classes of this project, which are found by name even if their
module has moved.

## Columns

The type is that of pandas. The unit `of [0, 1]` means values of pixels, which run from 0 to 1. A `share` lies
between 0 and 1, and a `class` is the number of a class. A *decision* is an answer of the victim (the
undefended classifier), or follows from such answers. A *cost* depends on the machine and its load.

| Column | Type | Unit | Kind | Meaning |
| --- | --- | --- | --- | --- |
"""
COMMANDS = """# Command line

Most commands are [Hydra](https://hydra.cc) applications. Their words have the form `name=value`: a name is a
config group, whose values are the files in `configs/<group>/`, or a setting. Every parameter of a chosen
config can be set too, for example `attack.eps=8/255`. A wrong name is answered with the names that exist.

With `-m`, values are lists, and the command runs once for every combination. `--help` prints the help that is
shown below, `--cfg job` prints the composed config, and `--hydra-help` lists the options of Hydra.

The exit status is 0 if everything was computed, 1 if cells failed, and 2 if the input was wrong; the message
is then one line on standard error. Ctrl-C ends a command with status 130, and the same command continues from
the finished chunks.

## Shell completion

In bash, the Tab key completes the names of groups, settings and configs after this command, which can stand
in `~/.bashrc` with the full path:

```bash
source scripts/completion.bash
```

After this, `python -m runners.evaluate attack=ap` followed by Tab lists `apgd` and `apgd-dlr`.

This page is written by `python -m scripts.document`.
"""
CONFIG_PAGE = """# Configs

Each file in `configs/` describes one choice: `configs/attack/pgd.yaml` is `attack=pgd`. The table lists every
file with the class or function that it names and the parameters that can be set, with their defaults. Files
without a class of their own change the file that is named behind *as*; *with* names a file that is included.

This page is written by `python -m scripts.document`.
"""


def records() -> str:
    """Return the page of record files."""
    rows = (f"| `{c.name}` | {c.dtype} | {c.unit} | {c.kind} | {c.meaning} |" for c in COLUMNS)
    return RECORDS + "\n".join(rows) + "\n"


def commands() -> str:
    """Return the page of commands, with the help of each."""
    parts = [COMMANDS]
    for path in [*sorted(ROOT.glob("runners/**/*.py")), *sorted(ROOT.glob("scripts/*.py"))]:
        source = path.read_text(encoding="utf-8")
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        description = (ast.get_docstring(ast.parse(source), clean=False) or "").strip()
        if run := RUNS.search(source):
            parts.append(f"## {module}\n\n```text\n{usage.text(run[1], description)}```\n")
        elif str(path.relative_to(ROOT)) in WITHOUT_CONFIG:
            parts.append(f"## {module}\n\n```text\n{description}\n```\n")
    return "\n".join(parts)


def configs() -> str:
    """Return the page of configs, with each file's class and parameters."""
    parts = [CONFIG_PAGE]
    for group in GROUPS:
        rows = "\n".join(_config_row(group, path) for path in sorted((CONFIGS / group).rglob("*.yaml")))
        parts.append(f"## {group}\n\n| `{group}=` | What it is |\n| --- | --- |\n{rows}\n")
    return "\n".join(parts)


def _config_row(group: str, path: Path) -> str:
    lines = path.read_text(encoding="utf-8").splitlines()
    name = path.relative_to(CONFIGS / group).with_suffix("")
    if group == "table":
        text = next(line.partition(": ")[2] for line in lines if line.startswith("title: "))
        return f"| `{name}` | {text} |"
    text = " ".join(_facts(lines))
    return f"| `{name}` | {text} |"


def _facts(lines: list[str]) -> Iterator[str]:
    """Yield the class of a config, the configs that it builds on, and its parameters."""
    for line in lines:
        if line.startswith("_target_: "):
            yield f"`{line.partition(': ')[2]}`:"
        elif match := re.fullmatch(r"  - (?:override )?(/?[\w@./]+(?:: \S+)?)", line):
            yield f"{'with' if match[1].startswith('/') else 'as'} `{match[1]}`;"
        elif match := re.fullmatch(r"(\w+): (.*?)(?:\s+#.*)?", line):
            value = match[2] if len(match[2]) <= 40 else "{...}"
            yield f"`{match[1]}={value}`"


def table(csv: Path = SHOWN) -> str:
    """Return a finished table as the console prints it, without its legend."""
    finished = Table.read(csv)
    output = Console(width=console.WIDTH, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    for block in console.blocks(console.largest_eps(finished.frame), console.WIDTH):
        output.print(block)
    lines = [line.rstrip().removeprefix(" ") for line in output.export_text().splitlines()]
    return "\n".join(lines).strip() + "\n"


def readme(text: str, block: str) -> str:
    """Return the text of README.md with this block between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}```text\n{block}```\n{END}{after}"


PAGES = {"records.md": records, "command-line.md": commands, "configs.md": configs}


def main() -> None:
    """Write all pages and README.md."""
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8"), table()), encoding="utf-8")


if __name__ == "__main__":
    main()
