"""Save a workspace for a table's runs in Weights & Biases.

    python -m scripts.wandb_dashboard entity=you table=ddip/table1
    python -m scripts.wandb_dashboard entity=you table=adaptive project=mine
    python -m scripts.wandb_dashboard entity=you table=ddip/table1 spec=workspace.json

The panels show the runs that logger=wandb or runners.log_wandb has logged for this table: results by
purifier, accuracy over eps and over every other number in which the table's cells differ, cost against
robustness, and images. Saving needs a login; `spec=FILE` writes the specification instead, which needs
neither a login nor a network.
"""

import json
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from data.errors import InputError, MissingError
from runners import app
from runners.files import write_whole
from runners.report import curves
from runners.tables.layout import on

PER_ROW = 2


def main(config: DictConfig) -> None:
    """Build the workspace, and save it or write its specification."""
    for name in ("entity", "project"):
        if not isinstance(config[name], str) or not config[name]:
            raise InputError(f"{name}: expected a name of W&B, as {name}=you; got {config[name]!r}")
    choices = HydraConfig.get().runtime.choices
    workspace = built(config.table, choices["table"], entity=config.entity, project=config.project)
    if config.spec is not None:
        write_whole(Path(config.spec), json.dumps(spec_of(workspace), indent=1).encode())
        app.tell(f"written: {config.spec}")
        return
    try:
        workspace.save()
    except Exception as error:  # wandb's own, of many kinds: no login, no network, no such entity
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"W&B: cannot save the workspace ({reason}); wandb login first, or spec=FILE to write it down"
        ) from error
    app.tell(f"saved: {workspace.url}")


def built(table: DictConfig, name: str, *, entity: str, project: str) -> Any:
    """Return the workspace of this table's runs; raise MissingError without wandb-workspaces."""
    try:
        import wandb_workspaces.reports.v2 as panels
        import wandb_workspaces.workspaces as workspaces
    except ImportError as error:
        raise MissingError("wandb-workspaces is not installed: pip install -e '.[dashboard]'") from error
    accuracy = panels.SummaryMetric("accuracy")
    purifier = panels.Config("names.purifier")

    def bars(title: str, metric: str, by: Any = purifier) -> Any:
        metrics = [panels.SummaryMetric(metric)]
        return panels.BarPlot(title=title, metrics=metrics, groupby=by, groupby_aggfunc="mean")

    def scatter(title: str, x: Any, **more: Any) -> Any:
        return panels.ScatterPlot(title=title, x=x, y=accuracy, **more)

    parameter_plots = [
        scatter(f"Accuracy over {parameter}", panels.Config(parameter)) for parameter in varying(table)
    ]
    sections = {
        "Figures": [
            bars("Accuracy in %, mean of the attacks, by purifier", "accuracy"),
            bars("Accuracy in %, by attack", "accuracy", panels.Config("names.attack")),
            bars("SSIM, by purifier", "ssim"),
            bars(
                "Accuracy of the undefended victim in %, by attack",
                "bare_accuracy",
                panels.Config("names.attack"),
            ),
        ],
        "Curves": [scatter("Accuracy over eps", panels.Config("attack.eps")), *parameter_plots],
        "Cost against robustness": [
            scatter("Accuracy over seconds per image", panels.SummaryMetric("purify_seconds"), log_x=True),
            bars("Seconds to purify one image", "purify_seconds"),
        ],
        "Images": [panels.WeavePanelSummaryTable(table_name="pictures")],
        "Table": [
            panels.MarkdownPanel(markdown=f"# {table.title}\n\nRuns: group `{name}`."),
            panels.WeavePanelSummaryTable(table_name="table"),
        ],
    }
    return workspaces.Workspace(
        entity=entity,
        project=project,
        name=f"purifybench {name}",
        sections=[
            workspaces.Section(
                name=title,
                panels=section_panels,
                is_open=True,
                layout_settings=workspaces.SectionLayoutSettings(columns=PER_ROW),
            )
            for title, section_panels in sections.items()
        ],
        runset_settings=workspaces.RunsetSettings(filters=workspaces.And(workspaces.Metric("Group") == name)),
    )


def varying(table: DictConfig) -> list[str]:
    """Return the numeric settings of attack, attacker or purifier, except eps, in which the cells differ."""
    panel = table.panels[0]
    rows, columns = (on(entries, panel.dataset, panel.victim) for entries in (table.rows, table.columns))
    words = [
        curves.words_of(" ".join([*table.get("cell", []), *row.get("cell", []), *column.get("cell", [])]))
        for row in rows
        for column in columns
    ]
    names = curves.varying(words, ("attack.", "knowledge.", "purifier."))
    return [name for name in names if name not in ("attack.eps", *curves.FOLLOWS)]


def spec_of(workspace: Any) -> dict[str, Any]:
    """Return the specification that would be sent to W&B."""
    return json.loads(workspace._to_model().spec.model_dump_json(by_alias=True))


if __name__ == "__main__":
    app.run(main, "dashboard")
