"""The command line: Hydra composes the config, and errors that a user can mend are one line and status 2.

Commands import this module before PyTorch. It sets what the thread pools of the libraries read when they are
loaded, and it reports a wrong name on the command line before they are imported.
"""

import logging
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig
from rich.text import Text

from data.errors import InputError
from runners import usage
from runners.config_errors import CONFIG_ERRORS, explain
from runners.exits import EndedError, FailedCellsError, begin, ended_by_signals, no_silent_exit
from runners.output import Output
from runners.places import CONFIGS

console = Output()

# A thread that waits for work sleeps and leaves its core to others. Values of the user are kept, and worker
# processes inherit all of them.
THREADS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # PyTorch, scikit-learn, and all others that use OpenMP
    "GOMP_SPINCOUNT": "0",  # otherwise GNU's OpenMP still spins for a while
    "KMP_BLOCKTIME": "0",  # Intel's and LLVM's
    "OPENBLAS_NUM_THREADS": "1",  # NumPy and SciPy
}
for _name, _value in THREADS.items():
    os.environ.setdefault(_name, _value)


def refuse_unknown_names(config: str) -> None:
    """End the command with status 2 if its words name a config or an option that does not exist.

    Hydra would report this too, but only after all imports, which take seconds.
    """
    _answer_help(config)
    words = sys.argv[1:]
    flags = {word for word in words if word.startswith("-")}
    if flags - {"-m", "--multirun"}:  # Hydra answers --cfg and the like
        return
    try:
        parsed = OverridesParser.create().parse_overrides([word for word in words if word not in flags])
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            for alternatives in _each(parsed) if flags else [[override.input_line for override in parsed]]:
                compose(config, alternatives)
    except CONFIG_ERRORS as error:
        sys.stderr.write(f"error: {explain(error, config)}\n")
        sys.exit(2)


def _answer_help(config: str) -> None:
    """Print the help of the command that runs, if the command line asks for it, and end with status 0."""
    if usage.asked(sys.argv[1:]):
        tell(usage.text(config, sys.modules["__main__"].__doc__ or ""))
        sys.exit(0)


def _each(overrides: list[Override]) -> Iterator[list[str]]:
    """Yield command lines that contain every value of a sweep, but not all combinations of values."""
    values = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [override.input_line]
        for override in overrides
    ]
    for i in range(max(map(len, values), default=1)):
        yield [alternatives[min(i, len(alternatives) - 1)] for alternatives in values]


@dataclass(frozen=True)
class Job:
    """One job of a sweep: the words that were set for it, and its result or its error."""

    words: tuple[str, ...]
    result: Any = None
    problem: Exception | None = None


def tell(text: str, *, style: str = "") -> None:
    """Print text as it is: lines are not wrapped, and brackets are not read as markup."""
    console.print(Text(text, style=style), soft_wrap=True)


def run(
    task: Callable[[DictConfig], Any], config: str, *, after: Callable[[list[Job]], None] | None = None
) -> None:
    """Run a Hydra application whose root config is `config`.

    The process exits with status 1 if cells failed, and with 2 for other errors that a user can mend. `after`
    is called at the end of a sweep with the jobs that ran in this process.
    """
    begin()
    _answer_help(config)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises errors instead of printing them
    logging.basicConfig(level=logging.WARNING, handlers=[Lines()], format="%(levelname)-8s %(message)s")
    if sends := [word for word in sys.argv[1:] if word.startswith("hydra/launcher=")]:
        sys.stderr.write(
            f"sending jobs ({sends[-1]}) and waiting for them; python -m runners.store status shows how far "
            "they are\n"
        )
    jobs: list[Job] = []
    problems: list[Exception] = []
    own_pid = os.getpid()

    def job(composed: DictConfig) -> None:
        """Run one job. In a multirun the other jobs go on after an error. A launcher may run a job in
        another process, and raises here what was raised there."""
        words = tuple(HydraConfig.get().overrides.task)
        try:
            with ended_by_signals(), no_silent_exit():
                try:
                    jobs.append(Job(words, task(composed)))
                except SystemExit as ended:  # raised by a component, outside of any cell
                    reason = f"a component asked the whole process to end (SystemExit: {ended.code})"
                    raise FailedCellsError(reason) from ended
        except EndedError as ended:
            if os.getpid() == own_pid:
                raise
            raise FailedCellsError(f"a job was {ended}; finished work is kept") from ended
        except (FailedCellsError, InputError, *CONFIG_ERRORS) as error:
            if os.getpid() != own_pid:
                raise
            problems.append(error)
            jobs.append(Job(words, problem=error))

    try:
        hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config)(job)()
        if after is not None and len(jobs) > 1:
            after(jobs)
    except KeyboardInterrupt as stopped:
        sys.stderr.write("stopped; finished work is kept, and the same command continues from there\n")
        sys.exit(128 + stopped.number if isinstance(stopped, EndedError) else 130)
    except (FailedCellsError, InputError, *CONFIG_ERRORS) as error:
        problems.append(error)
    except ValueError as error:  # raised by Hydra for group=null and the like, or a bug
        if Path(hydra.__file__).parent not in Path(extract_tb(error.__traceback__)[-1].filename).parents:
            raise
        problems.append(error)
    except RuntimeError as error:
        problems.append(_of_a_launcher(error))
    for line in dict.fromkeys(explain(problem, config) for problem in problems):  # jobs may share an error
        sys.stderr.write(f"error: {line}\n")
    if problems:
        sys.exit(1 if all(isinstance(p, FailedCellsError) for p in problems) else 2)


class Lines(logging.Handler):
    """Prints each log message on standard error in one line, however narrow the terminal is."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Output(stderr=True)

    def emit(self, record: logging.LogRecord) -> None:
        style = "red" if record.levelno >= logging.ERROR else "yellow"
        self.console.print(Text(self.format(record), style=style), soft_wrap=True)


def _of_a_launcher(error: RuntimeError) -> Exception:
    """Convert the error of a launcher: to InputError if jobs cannot be sent, to FailedCellsError if one died.

    Any other error is raised. The launchers are optional, so their classes cannot be imported here.
    """
    launchers = {"submitit", "joblib"}
    last = extract_tb(error.__traceback__)[-1]
    raised_in = launchers.intersection(Path(last.filename).parts)
    if not raised_in and type(error).__module__.partition(".")[0] not in launchers:
        raise error
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- ")]
    text = " ".join(dict.fromkeys([*lines[:1], *lines[-3:]]))  # the subject, and the end of the job's log
    if "submitit" in raised_in and last.name != "results":
        return InputError(f"hydra/launcher: {text}")
    return FailedCellsError(text)
