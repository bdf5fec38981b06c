"""Render the pages of the leaderboard of purifiers, or add an entry to it.

    python -m runners.leaderboard
    python -m runners.leaderboard add name=jpeg card=jpeg.yaml "files=[results/records/mine.parquet]"
    python -m runners.leaderboard leaderboard=another/folder

`add` takes an entry only if its card and its record files are sound, its purifier passes the contract checks,
and a sample of its images, run again, gives the recorded decisions.
"""

from runners import app

if __name__ == "__main__":
    import sys

    from runners.words import placed

    sys.argv[1:] = placed(sys.argv[1:], ("action",))
    app.refuse_unknown_names("leaderboard")

import random
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import yaml
from omegaconf import DictConfig

from data.errors import InputError
from data.images import cut
from runners import replay
from runners.evaluation.component import build
from runners.evaluation.devices import configure_torch
from runners.evaluation.records import from_parquet
from runners.evaluation.schema import DECISIONS
from runners.evaluation.weights import load_or_train
from runners.files import folder, writable, write_together, write_whole
from runners.leaderboard import board, pages
from runners.leaderboard.entry import CARD, WRITTEN, Entry, digest_of, read_card
from runners.leaderboard.memory import bytes_taken
from runners.output import quantity
from runners.store.artifact import Artifact
from runners.store.store import Store
from runners.validity.record_file import RecordFile
from runners.validity.recorded_cell import cell_of, device_for

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}")
ENTRIES = "entries"


def main(config: DictConfig) -> None:
    """Render the pages, and add an entry first if `action` is add."""
    where = folder(config.leaderboard, "leaderboard")
    if config.action == "add":
        add(config, where)
    elif config.action != "render":
        raise InputError(f"action: expected add or render, got {config.action!r}")
    render(where)


def render(where: Path) -> None:
    """Write index.html, leaderboard.md and leaderboard.csv from the entries."""
    entries = board.entries_in(where / ENTRIES)
    if not entries:
        raise InputError(
            f"leaderboard: expected entries in {where / ENTRIES}, got none; add one: python -m "
            "runners.leaderboard add (docs/leaderboard.md)"
        )
    boards = board.boards(entries)
    page = pages.html(boards, folder=Path(ENTRIES))
    contents = {
        "index.html": page,
        "leaderboard.md": pages.markdown(boards),
        "leaderboard.csv": pages.csv(boards),
    }
    write_together({writable(where) / name: text.encode() for name, text in contents.items()})
    app.tell(
        f"{quantity(len(entries), 'entry', 'entries')}: {where / 'index.html'}, leaderboard.md, "
        "leaderboard.csv"
    )


def add(config: DictConfig, where: Path) -> None:
    """Check an entry, run a sample of it again, and put it into the folder of the entries."""
    name = config.name
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InputError(
            f"name: expected small letters, digits and hyphens, such as ddip-32, got {name!r:.80}"
        )
    target = where / ENTRIES / name
    if target.exists():
        raise InputError(f"name: expected a new name, got {name}, which exists already: {target}")
    if not isinstance(config.card, str):
        raise InputError(f"card: expected a YAML file, got {config.card!r}")
    if not isinstance(config.sample, int) or config.sample < 1:
        raise InputError(f"sample: expected 1 image or more, got {config.sample!r}")
    card = read_card(Path(config.card), taken=False)
    entry = Entry.of(name, card, [Path(str(path)) for path in config.files])
    check_weights(entry)
    row = board.row_of(entry)
    board.boards([*board.entries_in(where / ENTRIES), entry])  # raises if they cannot be ranked together
    replayed = [again(file, config) for file in entry.files]
    contents = {key: card[key] for key in WRITTEN} | {
        "records": {file.path.name: digest_of(file.path) for file in entry.files},
        "replayed": replayed,
        "bytes_an_image": memory_of(entry.files[0], config),
    }
    keep(target, contents, [file.path for file in entry.files])
    app.tell(f"added {name}: {target}; {'complete' if row.complete else 'incomplete'}")


def check_weights(entry: Entry) -> None:
    """Raise InputError unless the card names the weights of the purifier that its records were made with."""
    for file in entry.files:
        used = file["weights"].get("purifier", {}).get("sha256")
        if used != entry.card["weights_sha256"]:
            raise InputError(
                f"card: weights_sha256: expected {used or 'null'}, the weights of {file.path.name}, got "
                f"{entry.card['weights_sha256'] or 'null'}"
            )


def again(file: RecordFile, config: DictConfig) -> str:
    """Run a random sample of a record file's images again, and return what was compared, in words.

    A victim rounds differently if other images are beside an image, and an attack can magnify this. So an
    image whose decision differs is run again with all images of its chunk, as it was for the records.

    Raises InputError if a decision still differs from the recorded one.
    """
    recorded = from_parquet(file.path.read_bytes()).set_index("id")
    sample = random.SystemRandom().sample(sorted(recorded.index), min(config.sample, len(recorded)))
    if differing := set(_differences(file, recorded, sample, config).id):
        chunks = [list(chunk) for chunk in cut(list(recorded.index), file["settings"]["chunk"])]
        beside = [id_ for chunk in chunks if differing & set(chunk) for id_ in chunk]
        remaining = _differences(file, recorded, beside, config)
        if len(remaining):
            first = remaining.iloc[0]
            raise InputError(
                f"{file.path}: {first.column} of {first.id}: the records say {first.was}, but a replay gives "
                f"{first.now}; the entry is not added"
            )
    return f"{file.path.name}: {len(sample)} of {len(recorded)} images gave the same decisions"


def _differences(
    file: RecordFile, recorded: pd.DataFrame, ids: Sequence[str], config: DictConfig
) -> pd.DataFrame:
    """Run these images again, and return each decision that differs: its column, id, and both values."""
    result, _ = replay.remade(file, config, only=frozenset(ids))
    now = result.records.set_index("id")
    if set(now.index) != set(ids):
        raise InputError(
            f"{file.path}: expected the images that its settings choose, got others; it may have been edited"
        )
    rows = []
    for column in ("label", "eps", *DECISIONS):
        was, is_ = recorded[column].loc[now.index], now[column]
        differs = ((was != is_) & ~(was.isna() & is_.isna())).fillna(True)
        rows += [(column, id_, was[id_], is_[id_]) for id_ in differs[differs].index]
    return pd.DataFrame(rows, columns=["column", "id", "was", "now"])


def memory_of(file: RecordFile, config: DictConfig) -> int:
    """Return the bytes of memory that purifying one image takes.

    A purifier that is fitted to each image is measured on its first steps.
    """
    cell = cell_of(file, folder(config.data_dir, "data_dir"))
    device = configure_torch(device_for(file, config.device), tf32=False)
    with tempfile.TemporaryDirectory(prefix="leaderboard-") as own:
        for name in ("purifier", "victim"):
            stored = file["weights"].get(name, {}).get("trained")
            trained = None if stored is None else Artifact.read(stored)
            content = None if trained is None else Store(folder(config.store, "store")).get(trained)
            if content is not None:
                Store(own).put(trained, content)
        purifier = (
            load_or_train(cell.configs["purifier"], Store(own), device=device).load(Store(own)).shortened()[0]
        )
        victim = load_or_train(cell.configs["victim"], Store(own), device=device).load(Store(own)).to(device)
    dataset = build(cell.configs["dataset"])
    image = dataset.index(file["settings"]["split"]).take([0]).images.to(device)
    return bytes_taken(lambda: purifier(image, seeds=[0], victim=victim), device)


def keep(target: Path, card: dict, files: list[Path]) -> None:
    """Write the entry's files into its folder, all of them or none."""
    parent = writable(target.parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=".adding-") as folder:
        part = Path(folder) / target.name
        part.mkdir()  # it has the user's usual permissions, unlike the temporary folder
        for path in files:
            shutil.copyfile(path, part / path.name)
        write_whole(part / CARD, yaml.safe_dump(card, sort_keys=False, allow_unicode=True).encode())
        part.rename(target)


if __name__ == "__main__":
    app.run(main, "leaderboard")
