"""Evaluate purifiers in front of a vision API.

    python -m runners.vision_api vision_api/service=aws
    python -m runners.vision_api vision_api/service=azure calls=5000
    python -m runners.vision_api vision_api/table=embedded

This package is optional: it imports the other packages, and none of them imports it. See docs/vision-api.md.
"""

from runners import app

if __name__ == "__main__":
    app.refuse_unknown_names("vision_api")

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_class
from omegaconf import DictConfig

from attacks.attack import Attack
from attacks.knowledge import Knowledge
from data.errors import InputError, MissingError
from data.images import Dataset
from purifiers.identity import Identity
from runners.evaluate import settings_of
from runners.evaluation import subset
from runners.evaluation.compatibility import same_labels
from runners.evaluation.component import Component, Config, build, to_plain_dict, usable
from runners.evaluation.devices import configure_torch
from runners.evaluation.records import to_parquet
from runners.evaluation.settings import Settings
from runners.evaluation.stages import Worker
from runners.evaluation.weights import ComponentLoader
from runners.files import folder, writable, write_whole
from runners.store.store import Store
from runners.tables.layout import on
from runners.tables.paper_results import figures_of
from runners.validity import provenance
from runners.vision_api import frame as api_frame
from runners.vision_api import render as api_render
from runners.vision_api.answers import Asker
from runners.vision_api.columns import Column, Filler, Row, records_of
from runners.vision_api.pairs import Candidates
from runners.vision_api.restored import Restorer
from runners.vision_api.services.response import Calls
from runners.vision_api.services.service import Service

SERVICE, TABLE = "vision_api/service", "vision_api/table"  # groups of configs


def main(config: DictConfig) -> None:
    """Fill the column of every API, then write and print the table."""
    settings = settings_of(config)
    for name, least in (("pairs", 1), ("validation", 0)):
        if not isinstance(config[name], int) or config[name] < least:
            raise InputError(f"{name}: expected a whole number of at least {least}, got {config[name]!r}")
    where = writable(folder(config.tables, "tables"))
    device = configure_torch(settings.device, tf32=settings.tf32)
    facts = provenance.of_process(device)
    worker = Worker(Store(settings.store, made_by=provenance.maker(facts)), device, settings.precision)
    rows = rows_of(config)
    if config.validation == 0 and (choosing := [row.label for row in rows if len(row.iterations) > 1]):
        names = ", ".join(choosing)
        raise InputError(f"validation: expected pairs to choose iterations of {names} on, got none")
    columns = columns_of(config, worker.store)
    if all(column.skipped for column in columns):
        raise InputError("; ".join(column.skipped for column in columns))
    loader = ComponentLoader(worker.store, device, app.console, settings.budget_hours)
    candidates = candidates_of(config, settings, worker, loader)
    filler = Filler(
        candidates=candidates,
        restorer=Restorer(worker, settings.seed, settings.chunk),
        rows=rows,
        pairs=config.pairs,
        validation=config.validation,
        loader=loader,
        console=app.console,
    )
    for column in columns:
        if column.asker is not None:
            app.tell(announced(column, filler))
            filler.fill(column)
    finish(config, columns, where, facts)


def announced(column: Column, filler: Filler) -> str:
    """Return how many calls an API may get and how long they may take, before it is asked."""
    calls, cap = filler.calls(), column.asker.calls.cap
    most = min(sum(calls.values()), cap)
    parts = ", ".join(f"{count} {what}" for what, count in calls.items() if count)
    minutes = most / column.asker.service.per_second / 60
    enough = "" if sum(calls.values()) <= cap else "; if that is not enough the next run goes on from there"
    return (
        f"{column.name} ({column.asker.service.address}): at most {most} calls in this run, calls={cap} is "
        f"the cap ({parts}; attempts that fail count too){enough}. At {column.asker.service.per_second:g} a "
        f"second up to {minutes:.0f} min. Answers are kept, and not asked for again."
    )


def columns_of(config: DictConfig, store: Store) -> list[Column]:
    """Return a column for the chosen service, or one for each service of the table.

    A column is marked as skipped if its credentials or its client are missing.
    """
    choice = HydraConfig.get().runtime.choices.get(SERVICE)
    columns = []
    for name, node in ({choice: config.service} if choice else config.services).items():
        column = Column(name, to_plain_dict(node))
        service: Service = build(column.config)
        try:
            column.asker = Asker(service, store, Calls(config.calls))
        except MissingError as error:
            column.skipped = str(error)
        columns.append(column)
    return columns


def rows_of(config: DictConfig) -> list[Row]:
    """Return the rows of the table. Raises InputError if the parameters of a purifier are wrong."""
    dataset, rows = HydraConfig.get().runtime.choices["dataset"], []
    own = [word for word in HydraConfig.get().overrides.task if word.startswith("dataset.")]
    for entry in on(config.rows, dataset, ""):
        words = [*entry.cell, f"data_dir='{config.data_dir}'"]
        composed = compose("evaluate", [f"dataset={dataset}", *own, *words], return_hydra_config=True)
        tried = tuple(entry.get("iterations") or ())
        if not all(isinstance(i, int) and i >= 1 for i in tried):
            raise InputError(f"rows: expected iterations of at least 1 for {entry.label}, got {list(tried)}")
        name, purifier = composed.hydra.runtime.choices["purifier"], to_plain_dict(composed.purifier)
        row = Row(entry.label, entry.get("defense"), name, purifier, tried)
        for iterations in tried or (None,):
            build(row.at(iterations))
        rows.append(row)
    if not rows:
        raise InputError("rows: expected at least one purifier, got none")
    return rows


def candidates_of(
    config: DictConfig, settings: Settings, worker: Worker, loader: ComponentLoader
) -> Candidates:
    """Return the images and the attack on them. Raises InputError if they do not fit each other."""
    if settings.subset == subset.OF_VICTIM:
        raise InputError(f"subset: a vision API has none of the data set's labels, got {settings.subset}")
    choices = HydraConfig.get().runtime.choices
    attack: Config = to_plain_dict(config.attack)
    knowledge: Config = to_plain_dict(config.knowledge)
    others = knowledge.pop("victims", {})
    built_knowledge: Knowledge = build(knowledge)
    if built_knowledge.uses_victim or built_knowledge.uses_purifier:
        raise InputError(
            f"knowledge: a vision API lets nobody see its network: expected transfer or ensemble, got "
            f"{choices['knowledge']}"
        )
    if get_class(attack["_target_"]).needs is None:
        raise InputError(f"attack: expected one that asks classifiers, got {choices['attack']}")
    built_attack: Attack = build(attack)
    built_knowledge.check(built_attack, Identity())
    with usable(f"dataset {choices['dataset']}"):
        dataset: Dataset = build(to_plain_dict(config.dataset))
        index = dataset.index(settings.split)
    about = choices["dataset"], dataset.label_space
    for name, other in others.items():
        same_labels(f"knowledge.victims.{name}", other.get("label_space"), *about)
    ensemble = [
        loader.load(other, where, where)
        for where, other in ((f"knowledge.victims.{name}", other) for name, other in others.items())
    ]
    positions = subset.sample_subset(
        settings.subset, index, settings.n, seed=settings.seed, classes=getattr(dataset, "classes", ())
    )
    return Candidates(
        index,
        positions,
        settings.chunk,
        Component(attack),
        Component(knowledge),
        tuple(ensemble),
        settings.seed,
        worker,
    )


def note_of(config: DictConfig, columns: Sequence[Column]) -> str:
    """Return why the results may not be compared with the paper's; its services can no longer be asked."""
    choices, differences = HydraConfig.get().runtime.choices, []
    if choices["dataset"] != "imagenet":
        differences.append(f"dataset {choices['dataset']} (the paper: ImageNet's training images)")
    if choices["knowledge"] != "ensemble":
        differences.append(f"knowledge {choices['knowledge']} (the paper: an ensemble of five)")
    for column in columns:
        service, search = column.asker and column.asker.service, column.found
        if service is None:
            continue
        if service.endpoint is not None or service.vendor == "http":
            differences.append(f"{column.name} is {service.address}, not the vendor's service")
        if service.labels != 5:
            differences.append(f"{column.name} with {service.labels} labels (the paper: 5)")
        if search.pairs and len(search.pairs) < config.pairs + config.validation:
            test_pairs = max(len(search.pairs) - config.validation, 0)
            differences.append(f"{column.name} with {test_pairs} test pairs, the candidates have no more")
    if (config.pairs, config.validation) != (100, 20):
        differences.append(
            f"{config.pairs} test and {config.validation} validation pairs (the paper: 100 and 20)"
        )
    return "no verdict: the services change, the paper asked those of 2021" + "".join(
        f"; {d}" for d in differences
    )


def finish(config: DictConfig, columns: list[Column], where: Path, facts: dict[str, Any]) -> None:
    """Write and print the table. Raises FailedCellsError if something failed."""
    choices = HydraConfig.get().runtime.choices
    paper = figures_of(config.paper)
    frame = api_frame.frame_of(columns, paper[paper.table == config.printed.figures])
    chosen = api_frame.chosen_of(columns, paper[paper.table == config.printed.iterations])
    setting = (
        f"dataset {choices['dataset']}, split {config.split}, {config.n} candidates, seed {config.seed}; "
        f"attack {choices['attack']} (eps {255 * to_plain_dict(config.attack)['eps']:g}/255), knowledge "
        f"{choices['knowledge']}; images are sent as PNG of 8 bits."
    )
    notes = api_frame.legend(columns, note_of(config, columns), setting)
    stem = "-".join(filter(None, [choices[TABLE], "apis", choices.get(SERVICE)]))
    files = api_render.write(frame, chosen, config.title, notes, where / stem)
    records = records_of(columns)
    if records is not None:
        about = {
            **facts,
            "format": "vision APIs",
            "configs": {part: to_plain_dict(config[part]) for part in ("dataset", "attack", "knowledge")},
            "services": {c.name: dict(c.asker.service.parameters()) for c in columns if c.asker},
            "rows": {row.row.label: row.row.config for c in columns for row in c.entries},
        }
        path = where / f"{stem}-records.parquet"
        write_whole(path, to_parquet(records, about))
        files.append(path)
    app.console.print(api_render.for_console(frame, chosen, config.title, notes))
    app.tell("written: " + ", ".join(str(file) for file in files))
    failed = [f"{c.name}: {c.failed}" for c in columns if c.failed]
    failed += [f"{c.name}, {e.row.label}: {e.failed}" for c in columns for e in c.entries if e.failed]
    if failed:
        raise app.FailedCellsError(
            f"{len(failed)} failed; the others are done, answers are kept and the next run asks only for "
            f"what lacks. First: {failed[0]}"
        )


if __name__ == "__main__":
    app.run(main, "vision_api")
