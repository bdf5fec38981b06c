"""The rows and columns that a table has on a data set and victim, by the names that claims give them."""

from dataclasses import dataclass
from functools import cache

from hydra import compose
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from data.errors import InputError
from runners.claims.statement import Claim
from runners.config_errors import names_of
from runners.places import CONFIGS
from runners.tables.layout import on
from runners.tables.paper_results import PaperSetting, panels_of


@dataclass(frozen=True)
class Column:
    """A column of a table's frame; `name` is its heading, such as `PGD 8 bpda`."""

    label: str
    name: str
    metric: str
    combined: bool = False  # whether it is the average or the worst of the others


@dataclass(frozen=True)
class Shape:
    """The rows of a table, by label and by the paper's word for the defense, and its columns."""

    rows: tuple[tuple[str, str | None], ...]
    columns: tuple[Column, ...]

    def row(self, name: str) -> str:
        """Return the label of the row with this label, or else with this defense.

        Raises LookupError unless exactly one row has it.
        """
        labels = [label for label, _ in self.rows]
        if name in labels:
            return name
        of_defense = [label for label, defense in self.rows if defense == name]
        if len(of_defense) != 1:
            defenses = [defense for _, defense in self.rows]
            known = [label if not d or defenses.count(d) > 1 else d for label, d in self.rows]
            raise LookupError(
                f"{'several rows' if of_defense else 'no row'} {name!r}; there are {', '.join(known)}"
            )
        return of_defense[0]

    def column(self, name: str) -> Column:
        """Return the column of this name or else the only one of this label. Raises LookupError otherwise."""
        named = [column for column in self.columns if column.name == name]
        named = named or [column for column in self.columns if column.label == name]
        if len(named) != 1:
            known = ", ".join(column.name for column in self.columns)
            raise LookupError(f"{'several columns' if named else 'no column'} {name!r}; there are {known}")
        return named[0]


@cache
def config_of(name: str) -> DictConfig:
    """Return the config of a table, which is composed only once.

    Hydra must have been initialised with the folder of the configs.
    """
    return compose(None, [f"+table={name}"]).table


@cache
def shape_of(name: str, dataset: str, victim: str) -> Shape:
    """Return the shape of the table of this name on this data set and victim."""
    table = config_of(name)
    metric = table.get("metric", "accuracy")
    columns = []
    for column in on(table.columns, dataset, victim):
        words = [*table.get("cell", []), *column.get("cell", [])]
        knowledge = next(
            (word.split("=")[1] for word in reversed(words) if word.startswith("knowledge=")), "blind"
        )
        plain_heading = column.label if column.get("eps") is None else f"{column.label} {column.eps:g}"
        kind = _kind(knowledge)
        heading = plain_heading if kind == "blind" else f"{plain_heading} {kind}"
        columns.append(Column(column.label, heading, column.get("metric", metric)))
    for end in ("average", "worst"):
        if table.get(end):
            columns.append(Column(table[end].label, table[end].label, metric, combined=True))
    rows = tuple((row.label, row.get("defense")) for row in on(table.rows, dataset, victim))
    return Shape(rows, tuple(columns))


@cache
def _kind(knowledge: str) -> str:
    """Return the kind of attacker that a config of knowledge represents."""
    target = OmegaConf.load(CONFIGS / "knowledge" / f"{knowledge}.yaml")["_target_"]
    return get_class(target).declared_kind()


def panels_for(claim: Claim) -> list[PaperSetting]:
    """Return the settings of the paper that the claim is about."""
    return [
        panel
        for panel in panels_of(config_of(claim.table))
        if all(getattr(panel, name, None) == value for name, value in claim.setting.items())
    ]


def check(claim: Claim) -> None:
    """Raise InputError if the claim names a table, a setting, a row or a column that does not exist.

    It is also raised if the metrics of the columns do not suit the claim.
    """
    if claim.not_tested:
        return
    subject = f"claim {claim.paper}, {claim.id}"
    if claim.table not in (known := names_of("table")):
        raise InputError(f"{subject}: expected a table of {', '.join(known)}; got {claim.table!r}")
    panels = panels_for(claim)
    if config_of(claim.table).get("paper") != claim.paper or not panels:
        known_settings = "; ".join(
            f"{panel.dataset}, {panel.victim}" for panel in panels_of(config_of(claim.table))
        )
        raise InputError(
            f"{subject}: expected a setting of the paper's {claim.table} ({known_settings}), got "
            f"{dict(claim.setting)}"
        )
    for panel in panels:
        shape = shape_of(claim.table, panel.dataset, panel.victim)
        metrics = set()
        for row, column in {place for pair in claim.pairs() for side in pair if side for place in side}:
            try:
                shape.row(row)
                entry_column = shape.column(column)
            except LookupError as error:
                raise InputError(
                    f"{subject}: {claim.table} on {panel.dataset}, {panel.victim} has {error}"
                ) from None
            metrics.add(entry_column.metric)
            if claim.level is not None and (entry_column.metric != "accuracy" or entry_column.combined):
                raise InputError(
                    f"{subject}: expected a column of right and wrong answers for a level, got {column}"
                )
        if len(metrics) > 1 or not metrics <= {"accuracy", "ssim"}:
            raise InputError(
                f"{subject}: expected columns of accuracy or of SSIM, got {', '.join(sorted(metrics))}"
            )
