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
    """A column as a table's frame has it; `name` is what stands above it, `PGD 8 bpda`."""

    label: str
    name: str
    metric: str
    combined: bool = False  # the average or the worst of the others


@dataclass(frozen=True)
class Shape:
    """Labels of rows with the paper's words for their defenses, and columns."""

    rows: tuple[tuple[str, str | None], ...]
    columns: tuple[Column, ...]

    def row(self, name: str) -> str:
        """The label of the row of this label or else of this defense; LookupError where not just one is."""
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
        """The column of this name, or else the only one of this label. Raises LookupError otherwise."""
        named = [column for column in self.columns if column.name == name]
        named = named or [column for column in self.columns if column.label == name]
        if len(named) != 1:
            known = ", ".join(column.name for column in self.columns)
            raise LookupError(f"{'several columns' if named else 'no column'} {name!r}; there are {known}")
        return named[0]


@cache
def config_of(name: str) -> DictConfig:
    """The config of a table, composed once; Hydra must have been told where configs are."""
    return compose(None, [f"+table={name}"]).table


@cache
def shape_of(name: str, dataset: str, victim: str) -> Shape:
    """The shape of the table of this name on this data set and victim."""
    table = config_of(name)
    metric = table.get("metric", "accuracy")
    columns = []
    for column in on(table.columns, dataset, victim):
        words = [*table.get("cell", []), *column.get("cell", [])]
        known = next(
            (word.split("=")[1] for word in reversed(words) if word.startswith("knowledge=")), "blind"
        )
        name_of = column.label if column.get("eps") is None else f"{column.label} {column.eps:g}"
        kind = _kind(known)
        shown = name_of if kind == "blind" else f"{name_of} {kind}"
        columns.append(Column(column.label, shown, column.get("metric", metric)))
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
    """Raise InputError where the claim names a table, a setting, a row or a column that there is not."""
    if claim.not_tested:
        return
    what = f"claim {claim.paper}, {claim.id}"
    if claim.table not in (known := names_of("table")):
        raise InputError(f"{what}: expected a table of {', '.join(known)}; got {claim.table!r}")
    panels = panels_for(claim)
    if config_of(claim.table).get("paper") != claim.paper or not panels:
        there = "; ".join(f"{panel.dataset}, {panel.victim}" for panel in panels_of(config_of(claim.table)))
        raise InputError(
            f"{what}: expected a setting of the paper's {claim.table} ({there}), got {dict(claim.setting)}"
        )
    for panel in panels:
        shape = shape_of(claim.table, panel.dataset, panel.victim)
        metrics = set()
        for row, column in {place for pair in claim.pairs() for side in pair if side for place in side}:
            try:
                shape.row(row)
                found = shape.column(column)
            except LookupError as error:
                raise InputError(
                    f"{what}: {claim.table} on {panel.dataset}, {panel.victim} has {error}"
                ) from None
            metrics.add(found.metric)
            if claim.level is not None and (found.metric != "accuracy" or found.combined):
                raise InputError(
                    f"{what}: expected a column of right and wrong answers for a level, got {column}"
                )
        if len(metrics) > 1 or not metrics <= {"accuracy", "ssim"}:
            raise InputError(
                f"{what}: expected columns of accuracy or of SSIM, got {', '.join(sorted(metrics))}"
            )
