"""Evaluate purifiers by the leaderboard's standard attacks, and add them to it.

    python -m scripts.entries jpeg median nrp
    python -m scripts.entries jpeg n=128 leaderboard=/tmp/board
    python -m scripts.entries sr-imdn dataset=cifar10 victim=resnet56 victim@knowledge.victims.first=resnet20

Words without = are configs of purifiers; the others are settings of runners.evaluate, and `leaderboard=`.
Every purifier is evaluated on clean images, under APGD of 100 steps in the ball of 8/255 by attackers who
know only the victim, another classifier, or the defense (through BPDA), and under Square with 1,000 queries.
If the purifier's gradient is exact, APGD goes through it too. A purifier that is fitted to each image is
evaluated only under the first two, which its entry says. A purifier that is on the leaderboard already is
left out. One whose evaluation fails does not stop the others; then the exit status is 1.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from hydra import compose, initialize_config_dir

from data.errors import InputError
from runners import app, cite
from runners.config_errors import names_of
from runners.evaluation.component import Config, build, to_plain_dict
from runners.validity.record_file import RecordFile

N = 64
ATTACKS = {  # the arguments of each evaluation, by the kind of purifiers that it is for
    "any": [["attack=clean"], ["attack=apgd"], ["attack=apgd", "knowledge=transfer"]],
    "quick": [["attack=apgd", "knowledge=bpda"], ["attack=square", "attack.queries=1000", "knowledge=score"]],
    "exact": [["attack=apgd", "knowledge=full"]],
}
KNOWN_VICTIMS = "knowledge.victims."  # part of the settings of a transfer attack
AUTHOR = re.compile(r"^\s*author = \{(.+)\},?$", re.MULTILINE)
YEAR = re.compile(r"^\s*year = \{(\d+)\}", re.MULTILINE)


def sweeps(name: str, config: Config, words: Sequence[str]) -> list[list[str]]:
    """Return the arguments of each call of runners.evaluate for a purifier of this config.

    Args:
        words: settings of all calls, and of the classifiers that only a transfer attack knows.
    """
    purifier = build(config)
    kinds = ["any", *([] if purifier.per_image_optimization else ["quick"])]
    kinds += ["exact"] if purifier.gradient == "exact" and not purifier.per_image_optimization else []
    transfer_words = [word for word in words if KNOWN_VICTIMS in word]
    shared = [f"purifier={name}", *(word for word in words if word not in transfer_words)]
    return [
        [*shared, *sweep, *(transfer_words if "knowledge=transfer" in sweep else [])]
        for kind in kinds
        for sweep in ATTACKS[kind]
    ]


def card_of(name: str, config: Config, records: Sequence[Path]) -> dict[str, Any]:
    """Return the card of an entry, whose paper is the first that the purifier's documentation links to.

    Raises InputError if it links to no paper for which the project has a reference.
    """
    references = cite.references()
    link = next((link for link in cite.links_of(config) if link in references), None)
    if link is None:
        raise InputError(f"{name}: expected a purifier that links to a paper; write its card by hand")
    authors, year = AUTHOR.search(references[link])[1].split(" and "), YEAR.search(references[link])[1]
    by = authors[0].split(",")[0]
    if len(authors) == 2 and authors[1] != "others":
        by += f" and {authors[1].split(',')[0]}"
    elif len(authors) > 1:
        by += " et al."
    weights = RecordFile.read(records[0])["weights"].get("purifier", {}).get("sha256")
    return {
        "purifier": name,
        "paper": f"{by} {year}",
        "link": link,
        "weights_sha256": weights,
        "run_by": "the purifybench authors",
    }


def add(name: str, config: Config, words: Sequence[str], board: Sequence[str]) -> None:
    """Evaluate a purifier, and add it to the leaderboard; raise CalledProcessError if a command fails."""
    with TemporaryDirectory(prefix="entries-") as folder:
        for sweep in sweeps(name, config, words):
            run("runners.evaluate", *sweep, f"records={folder}")
        records = sorted(Path(folder).glob("*.parquet"))
        card = Path(folder) / "card.yaml"
        card.write_text(yaml.safe_dump(card_of(name, config, records), sort_keys=False))
        files = f"files=[{','.join(map(str, records))}]"
        run("runners.leaderboard", "add", f"name={entry_of(name, words)}", f"card={card}", files, *board)


def entry_of(name: str, words: Sequence[str]) -> str:
    """Return the name of a purifier's entry on the data set of these arguments."""
    dataset = next((word.removeprefix("dataset=") for word in words if word.startswith("dataset=")), None)
    return f"{name}-{dataset}" if dataset else name


def run(module: str, *words: str) -> None:
    """Run a command of the project."""
    subprocess.run([sys.executable, "-m", module, *words], check=True)


def main(arguments: Sequence[str]) -> int:
    """Add the named purifiers, and return 1 if one of them failed."""
    names = [word for word in arguments if "=" not in word and not word.startswith("-")]
    board = [word for word in arguments if word.startswith("leaderboard=")]
    words = [word for word in arguments if "=" in word and word not in board]
    words = [*([] if any(word.startswith("n=") for word in words) else [f"n={N}"]), *words]
    folder = Path(board[0].removeprefix("leaderboard=") if board else "results/leaderboard")
    unknown = [name for name in names if name not in names_of("purifier")]
    if unknown or not names:
        raise InputError(f"expected names of configs of purifiers, got {', '.join(unknown) or 'none'}")
    failed = []
    for name in names:
        if (folder / "entries" / entry_of(name, words)).exists():
            continue
        with initialize_config_dir(str(app.CONFIGS), version_base="1.3"):
            shared = [word for word in words if KNOWN_VICTIMS not in word]
            composed = compose("evaluate", [f"purifier={name}", *shared])
        try:
            add(name, to_plain_dict(composed.purifier), words, board)
        except subprocess.CalledProcessError:
            failed.append(name)
    if failed:
        app.tell(f"not added: {', '.join(failed)}")
    return int(bool(failed))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except InputError as error:
        sys.exit(f"error: {error}")
