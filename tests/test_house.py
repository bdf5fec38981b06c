"""Imports run one way: from commands down to the store, and from runners to what they run."""

import ast
import re
from pathlib import Path

import pytest

from runners.places import CONFIGS

ROOT = CONFIGS.parent
FOLDERS = {  # what each may import besides itself
    "data": set(),
    "victims": {"data"},
    "purifiers": {"data"},
    "attacks": {"data", "purifiers", "victims"},
    "runners": {"data", "purifiers", "victims", "attacks"},
    "scripts": {"data", "purifiers", "victims", "attacks", "runners"},
    "purifybench": {"data", "purifiers", "victims", "attacks", "runners"},
}
ROOMS = [
    "exits files output places",
    "config_errors usage",
    "app words",
    "composition",
    "untrusted",
    "store",
    "evaluation",
    "validity",
    "evaluator",
    "tables",
    "claims",
    "report",
    "loggers",
]
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms.split()}  # commands above all


def imported(path: Path) -> set[str]:
    """Return the modules that a file imports, also within functions; `from a import b` gives a.b as well."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_imports_from_those_below_it(folder):
    files = list((ROOT / folder).rglob("*.py"))
    assert files
    for path in files:
        tops = {name.partition(".")[0] for name in imported(path)} & (set(FOLDERS) | {"tests"})
        assert tops <= FOLDERS[folder] | {folder}, path


def floor(room: str) -> int:
    return FLOOR.get(room, len(ROOMS))


def test_the_rooms_of_runners_import_from_floors_below():
    pairs = set()
    for path in (ROOT / "runners").rglob("*.py"):
        room = path.relative_to(ROOT / "runners").with_suffix("").parts[0]
        room = f"{room}.__main__" if path.name == "__main__.py" else room  # a command, whatever its folder
        for name in imported(path):
            top, _, rest = name.partition(".")
            other = rest.partition(".")[0]
            if top != "runners" or not other or other == room:
                continue
            both_commands = floor(other) == floor(room) == len(ROOMS)
            assert floor(other) < floor(room) or both_commands, f"{path} imports {name}"
            pairs.add((room, other))
    assert {("evaluation", "store"), ("table", "evaluator")} <= pairs
    packages = {path.name for path in (ROOT / "runners").iterdir() if (path / "__init__.py").is_file()}
    assert packages <= {*FLOOR, "vision_api", "leaderboard"}, "these two are commands that are packages"


def test_nothing_names_the_benchmark_of_vision_apis_but_itself():
    """The benchmark is optional: without its package and its configs, everything else stays as it is."""
    own = [ROOT / "runners" / "vision_api", CONFIGS / "vision_api"]
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")] + list(
        CONFIGS.rglob("*.yaml")
    )
    others = [
        path
        for path in files
        if not any(folder in path.parents for folder in own) and not path.name.startswith("vision_api")
    ]
    assert len(others) < len(files)
    names = re.compile(r"vision.?(api|service)", re.IGNORECASE)
    assert [path for path in others if names.search(path.read_text(encoding="utf-8"))] == []


def test_no_file_imports_one_that_imports_it():
    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
    }
    below = {name: imported(path) & set(files) - {name} for name, path in files.items()}
    ground = set()
    while free := {name for name, names in below.items() if name not in ground and names <= ground}:
        ground |= free
    assert set(files) == ground, sorted(set(files) - ground)
