"""Jobs that share the work of a run, which a Hydra multirun over `shard` starts."""

from collections.abc import Sequence

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from data.errors import InputError
from runners import app
from runners.evaluation.queue import Launch
from runners.evaluator import UNFINISHED, CellResult
from runners.tables.layout import part_of


def launch_of(config: DictConfig) -> Launch:
    """Return the launch of this process.

    The jobs of a Hydra multirun are named after its folder, whose name has the date and time.
    """
    shard = config.shard
    if shard is not None and (not isinstance(shard, int) or shard < 0):
        raise InputError(f"shard: expected the number of a job, 0 or more, or null, got {shard!r}")
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return Launch(HydraConfig.get().sweep.dir, shard)
    return Launch(shard=shard)


def words_typed() -> list[str]:
    """Return the words of the command line without `shard`, since all jobs of a run ask for the same."""
    return [word for word in HydraConfig.get().overrides.task if part_of(word) != "shard"]


def end_job(results: Sequence[CellResult]) -> None:
    """End one job of several, which renders nothing.

    Raises FailedCellsError if cells failed. Unfinished cells have not failed, because other jobs are doing
    them.
    """
    failed = [result for result in results if result.failed not in (None, UNFINISHED)]
    if failed:
        raise app.FailedCellsError(
            f"{len(failed)} of {len(results)} cells failed. First: {failed[0].cell.label}: {failed[0].failed}"
        )
