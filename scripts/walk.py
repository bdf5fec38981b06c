"""Follow the documentation: run its commands in a copy of the project, and check their exit status.

    python -m scripts.walk
    python -m scripts.walk index test-your-purifier
    python -m scripts.walk --list

A block of docs/*.md is part of the walk if the line above it is a comment. `<!-- walk -->` runs the commands
of a block, `<!-- walk: status 2 -->` expects this exit status of its last command, and
`<!-- walk: purifiers/blur.py -->` writes the block into this file. The copy is a temporary folder without
results and without a store, so that nothing of this folder is changed. The exit status is 1 if a command
ended with another status.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from runners.app import tell
from runners.places import CONFIGS

ROOT = CONFIGS.parent
BLOCK = re.compile(r"<!-- walk(?:: (?P<what>[^>]+?))? -->\n```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)
COPIED = [
    "attacks",
    "configs",
    "data",
    "purifiers",
    "runners",
    "scripts",
    "tests",
    "victims",
    "pyproject.toml",
]


@dataclass(frozen=True)
class Step:
    """One block of a page: commands with the exit status of the last, or a file."""

    page: str
    text: str
    status: int = 0
    file: str | None = None


def steps(page: Path) -> Iterator[Step]:
    """Yield the blocks of a page that belong to the walk, in their order."""
    for block in BLOCK.finditer(page.read_text(encoding="utf-8")):
        what, text = block["what"] or "", block["text"]
        if block["kind"] != "bash":
            yield Step(page.stem, text, file=what)
        else:
            yield Step(page.stem, text, status=int(what.removeprefix("status ") or 0))


def copy(into: Path) -> None:
    """Copy the files that commands need: the code, and the results that are part of the project."""
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, into / name)
    for name in ("papers", "weights"):
        shutil.copytree(ROOT / "results" / name, into / "results" / name)


def follow(step: Step, folder: Path) -> bool:
    """Run one step in the copy, and return whether it ended as the page says."""
    if step.file is not None:
        path = folder / step.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(step.text, encoding="utf-8")
        return True
    start = time.perf_counter()
    environment = {"PURIFYBENCH_STORE": str(folder / "results" / "store"), "PATH": _path()}
    done = subprocess.run(
        ["bash", "-euc", step.text], cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    right = done.returncode == step.status
    ended = f"{'ok' if right else 'WRONG'}, status {done.returncode}, {time.perf_counter() - start:.0f} s"
    tell(f"{ended}: {step.text.strip()}")
    if not right:
        tell(done.stdout[-2000:] + done.stderr[-2000:], style="red")
    return right


def _path() -> str:
    """Return a search path on which `python` is the one that runs this script."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


def main(words: Sequence[str]) -> int:
    """Follow the pages, and return 0 if every command ended as its page says, otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.walk",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    pages = {path.stem: path for path in sorted((ROOT / "docs").glob("*.md")) if list(steps(path))}
    parser.add_argument("pages", nargs="*", metavar="page", help=f"of {', '.join(pages)}; all by default")
    parser.add_argument("--list", action="store_true", help="print the commands, and run nothing")
    arguments = parser.parse_args(words)
    if unknown := set(arguments.pages) - set(pages):
        parser.error(f"expected pages of {', '.join(pages)}; got {', '.join(sorted(unknown))}")
    wrong = 0
    for page in arguments.pages or pages:
        with TemporaryDirectory() as folder:
            if not arguments.list:
                copy(Path(folder))
            for step in steps(pages[page]):
                if arguments.list:
                    tell(f"{page}: {step.file or step.text.strip()}")
                else:
                    wrong += not follow(step, Path(folder))
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
