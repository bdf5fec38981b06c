"""The command line: Hydra composes the config, and every error that a user can mend is one line, status 2.

Commands import this module before PyTorch. It sets what the thread pools of the libraries read when they are
loaded, and it answers a wrong name on the command line without waiting until they are imported.
"""

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import extract_tb
from typing import Any

import hydra
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.text import Text

from data.errors import InputError
from runners import usage
from runners.exits import EndedError, begin, ended_by_signals, no_silent_exit
from runners.output import Output

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
console = Output()
CONFIG_ERRORS = (HydraException, OmegaConfBaseException, yaml.MarkedYAMLError)  # for a bad config

# A thread that waits for work sleeps, and leaves its core to others. What the user has set stays, and worker
# processes inherit all of it.
THREADS = {
    "OMP_WAIT_POLICY": "PASSIVE",  # PyTorch, scikit-learn, and all others that use OpenMP
    "GOMP_SPINCOUNT": "0",  # GNU's OpenMP spins a while even so
    "KMP_BLOCKTIME": "0",  # Intel's and LLVM's
    "OPENBLAS_NUM_THREADS": "1",  # NumPy and SciPy
}
for _name, _value in THREADS.items():
    os.environ.setdefault(_name, _value)


class FailedCellsError(Exception):
    """Raised at the end of a run in which some cells failed; the command ends with status 1."""


def refuse_unknown_names(config: str) -> None:
    """End the command with status 2 where its words name a config or an option that does not exist.

    Hydra would say so too, but only once everything is imported, which takes seconds.
    """
    _answer_help(config)
    words = sys.argv[1:]
    flags = {word for word in words if word.startswith("-")}
    if flags - {"-m", "--multirun"}:  # --cfg and the like are Hydra's to answer
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
    """Command lines in which every value of a sweep occurs, but not all combinations of values."""
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
    """Print text as it is: lines are not wrapped, and brackets are not markup."""
    console.print(Text(text, style=style), soft_wrap=True)


def run(
    task: Callable[[DictConfig], Any], config: str, *, after: Callable[[list[Job]], None] | None = None
) -> None:
    """Run a Hydra application whose root config is `config`; exits 0, 1 (failed cells) or 2.

    `after` is called at the end of a sweep with the jobs that ran in this process.
    """
    begin()
    _answer_help(config)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to Hydra's printer
    logging.basicConfig(level=logging.WARNING, handlers=[Lines()], format="%(levelname)-8s %(message)s")
    if sends := [word for word in sys.argv[1:] if word.startswith("hydra/launcher=")]:
        sys.stderr.write(
            f"sending jobs ({sends[-1]}) and waiting for them; python -m runners.store status shows how far "
            "they are\n"
        )
    jobs: list[Job] = []
    problems: list[Exception] = []
    ours = os.getpid()

    def job(composed: DictConfig) -> None:
        """Run one job. In a multirun the other jobs go on after an error. A launcher may run a job in another
        process, and hands back what is raised there."""
        words = tuple(HydraConfig.get().overrides.task)
        try:
            with ended_by_signals(), no_silent_exit():
                try:
                    jobs.append(Job(words, task(composed)))
                except SystemExit as ended:  # no runner ends so: a component did, outside of any cell
                    reason = f"a component asked the whole process to end (SystemExit: {ended.code})"
                    raise FailedCellsError(reason) from ended
        except EndedError as ended:
            if os.getpid() == ours:
                raise
            raise FailedCellsError(f"a job was {ended}; finished work is kept") from ended
        except (FailedCellsError, InputError, *CONFIG_ERRORS) as error:
            if os.getpid() != ours:
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
    except ValueError as error:  # Hydra's own for group=null and the like; any other is our fault
        if Path(hydra.__file__).parent not in Path(extract_tb(error.__traceback__)[-1].filename).parents:
            raise
        problems.append(error)
    except RuntimeError as error:
        problems.append(_of_a_launcher(error))
    for line in dict.fromkeys(explain(problem, config) for problem in problems):  # jobs may meet the same one
        sys.stderr.write(f"error: {line}\n")
    if problems:
        sys.exit(1 if all(isinstance(p, FailedCellsError) for p in problems) else 2)


class Lines(logging.Handler):
    """Log messages on standard error, one line each however narrow the terminal is."""

    def __init__(self) -> None:
        super().__init__()
        self.console = Output(stderr=True)

    def emit(self, record: logging.LogRecord) -> None:
        style = "red" if record.levelno >= logging.ERROR else "yellow"
        self.console.print(Text(self.format(record), style=style), soft_wrap=True)


def _of_a_launcher(error: RuntimeError) -> Exception:
    """The error of a launcher as one of this module: jobs that cannot be sent are bad input, and a job that
    died is a failure. Any other error is raised. The launchers are optional, so their classes cannot be
    imported here."""
    launchers = {"submitit", "joblib"}
    last = extract_tb(error.__traceback__)[-1]
    raised_in = launchers.intersection(Path(last.filename).parts)
    if not raised_in and type(error).__module__.partition(".")[0] not in launchers:
        raise error
    lines = [line.strip() for line in str(error).splitlines() if line.strip("- ")]
    text = " ".join(dict.fromkeys([*lines[:1], *lines[-3:]]))  # what it is about, and how a job's log ends
    if "submitit" in raised_in and last.name != "results":
        return InputError(f"hydra/launcher: {text}")
    return FailedCellsError(text)


def explain(error: Exception, config: str, words: Sequence[str] | None = None) -> str:
    """An error in one line: what is wrong and, where a name is wrong, which names exist.

    `words` are those that were composed, by default those of the command line.
    """
    words = sys.argv[1:] if words is None else words
    if isinstance(error, FailedCellsError | InputError):
        return " ".join(str(error).split())
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.partition("/")
        return f"no {group} is called {name!r}{_near(name, names_of(group))}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {error.override!r}: expected name=value, with quotes around a value with ( or ="
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark
        return f"{mark.name} line {mark.line + 1}: this is not valid YAML ({error.problem})"
    text = str(error)
    if match := re.search(r"Could not override '([\w./@-]+)'", text):
        return _unknown_option(match[1], config, words)
    if match := re.search(r"Could not find '([\w/-]+)'", text):
        group, _, name = match[1].partition("/")
        return f"no {group} is called {name!r}{_near(name, names_of(group))}"
    if match := re.search(r"Key '([\w./-]+)' is not in struct", text):
        return _unknown_option(match[1], config, words)
    if match := re.search(r"Interpolation key '([\w./@-]+)' not found", text):
        return f"a config refers to ${{{match[1]}}}, and no setting is called {match[1]!r}"
    return next(line for line in text.splitlines() if line.strip())


def names_of(group: str) -> list[str]:
    """The names of all configs of a group, as they are written on the command line."""
    folder = CONFIGS / group
    return sorted(str(p.relative_to(folder).with_suffix("")) for p in folder.rglob("*.yaml"))


def _unknown_option(name: str, config: str, words: Sequence[str]) -> str:
    own = OmegaConf.load(CONFIGS / f"{config}.yaml")
    leaves = {k: v for d in own.defaults if not isinstance(d, str) for k, v in d.items()}
    # An option names a nested group by its last part: logger.mode=offline for output/logger=wandb.
    groups = {group.rpartition("/")[2]: group for group in leaves if not group.startswith("override ")}
    group, *path = name.split(".")
    typed = dict(word.split("=", 1) for word in words if "=" in word)
    if config == "table" and group == "purifier":
        mine = typed.get("purifier", "NAME")
        return (
            f"no option is called {name!r}: each row of a table has its purifier; to add a row, set "
            f"rows=[{mine}], or run make compare PURIFIER={mine}"
        )
    if group not in groups or not path:
        shared = OmegaConf.load(CONFIGS / "settings.yaml") if "settings" in own.defaults else {}
        known = {*groups.values(), *own, *shared} - {"hydra", "defaults"}
        return f"no option is called {name!r}{_near(name, sorted(known))}"
    full = groups[group]
    chosen = (typed.get(full) or leaves[full] or "").split(",")[0]
    if not chosen:
        return f"no option is called {name!r}: also name the {group} that it belongs to, with {full}=..."
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        node = compose(config, [f"{full}={chosen}"]).get(group)
    for step in path[:-1]:
        node = node.get(step) if isinstance(node, DictConfig) else None
    options = sorted({*node} - {"_target_"}) if isinstance(node, DictConfig) else []
    of = " ".join([group, chosen, *path[:-1]])
    return f"no option is called {name!r}{_near(path[-1], options, f'; {of} has ')}"


def _near(name: str, known: list[str], intro: str = "; there are ") -> str:
    close = difflib.get_close_matches(name, known, n=1)
    meant = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{meant}{intro}{', '.join(known) or 'none'}"
