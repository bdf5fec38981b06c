"""Print the setting of a table for a paper's appendix, and the BibTeX entries of its parts.

    python -m runners.cite table=ddip/table1
    python -m runners.cite table=ddip/table1 dataset=cifar10 victim=resnet56 n=128
    python -m runners.cite table=ncis/table1

The settings are those of `runners.table`. Nothing is evaluated.
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("cite")

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig

from runners.evaluation.cell import Cell
from runners.jobs import words_typed
from runners.places import ROOT
from runners.table import checked
from runners.tables.layout import Composer, on
from runners.untrusted import targets

REFERENCES = ROOT / "results" / "papers" / "references.bib"
OF_THE_PROJECT = re.compile(r"(data|victims|attacks|purifiers)\.")
LINK = re.compile(r"https?://[^\s),;>'\"`]+")
ENTRY = re.compile(r"^@\w+\{.*?^\}\n", re.MULTILINE | re.DOTALL)
URL = re.compile(r"^\s*url = \{(.+)\}", re.MULTILINE)
PYTORCH = "https://arxiv.org/abs/1912.01703"  # everything is computed with it
OURS = """\
@software{purifybench,
  author = {{the purifybench authors}},
  title = {{purifybench: a benchmark of adversarial purification}},
}
"""


def main(config: DictConfig) -> None:
    """Print the paragraph, then the BibTeX entries."""
    choices, typed = HydraConfig.get().runtime.choices, words_typed()
    table = checked(config.table, choices["table"])
    composer = Composer(config, choices, typed)
    rows, columns = (
        on(entries, choices["dataset"], choices["victim"])
        for entries in (config.table.rows, config.table.columns)
    )
    cells = [cell for *_, cell in composer.cells(table, rows, columns)]
    app.tell(paragraph(table.title, config, cells))
    links = [*dict.fromkeys([PYTORCH, *(link for cell in cells for link in links_of(cell.configs))])]
    known = references()
    app.tell("\n" + "\n".join([OURS, *(known[link] for link in links if link in known)]))
    for link in links:
        if link not in known:
            app.tell(f"% {REFERENCES.name} has no entry for {link}")


def paragraph(title: str, config: DictConfig, cells: Sequence[Cell]) -> str:
    """Return the setting of the table as a paragraph of sentences."""
    first = cells[0]

    def named(part: str) -> str:
        return ", ".join(dict.fromkeys(str(cell.names[part]) for cell in cells))

    balls = ", ".join(dict.fromkeys(cell.eps for cell in cells if cell.eps))
    return (
        f"{title}: evaluated with purifybench on {config.n} images of {first.names['dataset']} (split "
        f"{config.split}, subset {config.subset}, seed {config.seed}) with the victim "
        f"{first.names['victim']}. Purifiers: {named('purifier')}. Attacks: {named('attack')}"
        + (f" ({balls})" if balls else "")
        + f"; knowledge of the attacker: {named('knowledge')}. Values of a random purifier are those of its "
        "first draw. Intervals are Wilson's, at 95 %. Command: python -m runners.table "
        + " ".join(words_typed())
    )


def links_of(config: Any) -> Iterator[str]:
    """Yield the links in the docstrings of a config's components, their base classes and their modules."""
    for _, component in targets(config):
        target = get_object(component["_target_"])
        for part in inspect.getmro(target) if inspect.isclass(target) else (target,):
            if OF_THE_PROJECT.match(part.__module__):
                for text in (part.__doc__, sys.modules[part.__module__].__doc__):
                    yield from (link.rstrip(".:") for link in LINK.findall(text or ""))


def references(path: Path = REFERENCES) -> dict[str, str]:
    """Return the BibTeX entries of a file by their `url`."""
    entries = ENTRY.findall(path.read_text(encoding="utf-8"))
    return {URL.search(entry)[1]: entry for entry in entries}


if __name__ == "__main__":
    app.run(main, "cite")
