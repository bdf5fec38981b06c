"""Reasons to doubt a result, as small pure functions of records. docs/flags.md says what to do about each.

A flag of a cell needs only the cell; a flag of a row compares the cells of one defense on one data set. A new
flag is one function here. Only its name, its mark in tables and its docstring are shown to users. Tables
print the marks in the order of the functions.
"""

from collections.abc import Iterable, Sequence

import pandas as pd
from torch import Tensor

from attacks.knowledge import BPDA, Kind
from runners.evaluation.component import Config
from runners.evaluation.metrics import standard_error, wilson
from runners.evaluation.subset import OF_VICTIM
from runners.validity.evidence import Evidence, Flag
from runners.validity.registry import CELL, ROW, cell_flag, row_flag

SMALL_N = 500
ROUNDING = 1e-5  # of norms, in float32
WHITE_BOX: tuple[Kind, ...] = ("bpda", "unrolled", "full", "everything")
BLACK_BOX: tuple[Kind, ...] = ("transfer", "surrogate", "score", "decision")


def of_cell(evidence: Evidence) -> list[Flag]:
    """Return the flags of a single cell."""
    return [Flag(name, seen) for name, check in CELL.items() if (seen := check(evidence)) is not None]


def meaning(name: str) -> str:
    """Return in one line the reason for which a flag is raised."""
    check = CELL.get(name) or ROW.get(name)
    if check is None:
        return "this flag no longer exists"
    return " ".join(check.__doc__.partition(" (runners/")[0].split()).rstrip(".")


def of_row(row: Sequence[Evidence]) -> list[list[Flag]]:
    """Return the flags that compare the cells of one defense, as one list for each cell."""
    raised: list[list[Flag]] = [[] for _ in row]
    for name, check in ROW.items():
        for at, seen in check(row):
            raised[at].append(Flag(name, seen))
    return raised


@cell_flag(mark="")
def small_n(evidence: Evidence) -> str | None:
    """There are fewer than 500 images."""
    n = len(evidence.records)
    return f"{n} images" if n < SMALL_N else None


@row_flag(mark="†")
def incomplete(row: Sequence[Evidence]) -> Iterable[tuple[int, str]]:
    """The purifier was attacked neither by the adaptive attack with its standard budget nor by all of a
    blind, a transfer, a BPDA and a query attack. For a purifier that has an exact gradient and is not fitted
    at test time, an attack through this gradient stands for BPDA."""
    if not row or row[0].purifier.changes_nothing:
        return
    known = {evidence.knowledge.kind for evidence in row if evidence.attacked}
    if any(e.attack.needs == "everything" and not e.attack.reduced for e in row):
        return
    exact = row[0].purifier.gradient == "exact" and not row[0].purifier.per_image_optimization
    lacking = [name for name in ("blind", "transfer") if name not in known]
    if not known & ({"bpda", "full"} if exact else {"bpda"}):
        lacking.append("an attack through the exact gradient (full)" if exact else "bpda")
    lacking += [] if known & {"score", "decision"} else ["a query attack"]
    if lacking:
        for i, evidence in enumerate(row):
            if evidence.attacked:
                yield i, f"without {', '.join(lacking)}"


@cell_flag(mark="w")
def attack_weak(evidence: Evidence) -> str | None:
    """The undefended victim keeps an accuracy of more than 10 % under an iterative blind attack whose eps is
    at least 8/255 or unlimited; on the paper's own data and victim, it keeps more than the paper
    prints (runners/tables/undefended.py).

    A victim that declares adversarial training may keep more under attacks within the norm and eps of its
    training.
    """
    attack, robust = evidence.attack, evidence.cell.configs["victim"].get("robust")
    if robust and attack.eps and attack.norm == robust["norm"] and attack.eps <= robust["eps"] + ROUNDING:
        return None
    strong = attack.eps is None or (attack.norm == "linf" and attack.eps >= 8 / 255 - ROUNDING)
    if evidence.knowledge.kind != "blind" or not strong or attack.backward < 5:
        return None
    bare = (evidence.records.adversarial_label == evidence.records.label).mean()
    return f"the undefended victim keeps {100 * bare:.1f} %" if bare > 0.1 else None


@cell_flag(mark="z")
def zero_grad(evidence: Evidence) -> str | None:
    """Most gradients are zero for more than 1 % of the images. Attacks without an eps are not checked, since
    their gradients may vanish once they succeed."""
    differentiated = evidence.records[evidence.records.backward_passes > 0]
    if differentiated.empty or evidence.attack.eps is None:
        return None
    share = (2 * differentiated.zero_gradients > differentiated.backward_passes).mean()
    return f"most gradients are zero for {100 * share:.1f} % of the images" if share > 0.01 else None


@cell_flag(mark="c")
def not_converged(evidence: Evidence) -> str | None:
    """The attack succeeds more often with twice the steps, by more than 2 standard errors."""
    return _fewer(evidence.probes.get("twice"), "the attack with twice the steps", by=2.0)


@row_flag(mark="m")
def non_monotone(row: Sequence[Evidence]) -> Iterable[tuple[int, str]]:
    """The accuracy is higher under a larger eps, by more than 2 standard errors, while everything else is
    equal."""
    for i, less in enumerate(row):
        for j, more in enumerate(row):
            if not (_but_for_eps(less) == _but_for_eps(more) and less.attack.eps and more.attack.eps):
                continue
            rise = more.accuracy - less.accuracy
            error = standard_error(less.accuracy, len(less.records), more.accuracy, len(more.records))
            if more.attack.eps > less.attack.eps and rise > 2 * error and i != j:
                yield j, f"{100 * rise:.1f} points above that at {less.cell.eps}"


@cell_flag(mark="u")
def unbounded_fails(evidence: Evidence) -> str | None:
    """With eps = 1, the attack does not bring the accuracy of what it attacks down to chance (2 standard
    errors are allowed)."""
    misled = evidence.probes.get("unbounded")
    if misled is None:
        return None
    stands, n = 1 - misled[:, 0].float().mean().item(), len(misled)
    chance = 1 / evidence.classes
    if stands > chance + 2 * standard_error(chance, n, 0, n):
        return f"{100 * stands:.1f} % of {n} images withstand eps = 1"
    return None


@row_flag(mark="b")
def blackbox_wins(row: Sequence[Evidence]) -> Iterable[tuple[int, str]]:
    """A blind, transfer or query attack with the same norm and eps breaks images that the white-box attack
    does not break."""
    for i, ours in enumerate(row):
        bare = ours.purifier.changes_nothing
        white, black = ((*WHITE_BOX, "blind"), BLACK_BOX) if bare else (WHITE_BOX, (*BLACK_BOX, "blind"))
        if not ours.attacked or ours.knowledge.kind not in white:
            continue
        for other in row:
            if other.knowledge.kind not in black or (stands := other.standing_in_ball_of(ours)) is None:
                continue
            more = len(ours.standing - stands)
            if more >= max(2, 0.002 * len(ours.records)):
                yield i, f"{other.cell.names['attack']} ({other.cell.names['knowledge']}) breaks {more} more"


@cell_flag(mark="n")
def noise_wins(evidence: Evidence) -> str | None:
    """Random noise of the same norm and eps misleads what is attacked more often than the attack does."""
    return _fewer(evidence.probes.get("noise"), "noise", by=0.0)


@cell_flag(mark="e")
def eot_too_small(evidence: Evidence) -> str | None:
    """Two independent gradients, each of as many draws as one step takes, hardly agree: their mean cosine is
    below 0.3."""
    cosines = evidence.probes.get("eot")
    if cosines is None or cosines.mean() >= 0.3:
        return None
    return f"cosine {cosines.mean().item():.2f} between gradients of {len(cosines)} images"


@cell_flag(mark="q")
def quantisation_gap(evidence: Evidence) -> str | None:
    """Rounding the adversarial images to 8 bits changes the accuracy by more than 2 points and one image."""
    if evidence.records.correct_8bit.isna().any():
        return None
    n, more = len(evidence.records), int(evidence.records.correct_8bit.sum() - evidence.records.correct.sum())
    gap = f"8-bit rounding changes it by {100 * more / n:+.1f} points"
    return gap if abs(more) > max(1, n / 50) else None


@cell_flag(mark="p")
def bpda_poor(evidence: Evidence) -> str | None:
    """The purifier changes pixel values by more than 3 eps (root mean square), so the identity is a poor
    substitute for its gradient."""
    knowledge, attack = evidence.knowledge, evidence.attack
    if not isinstance(knowledge, BPDA) or knowledge.substitute is not None or attack.norm != "linf":
        return None
    moved = evidence.records.moved.mean()
    return f"it changes values by {moved * 255:.1f}/255" if attack.eps and moved > 3 * attack.eps else None


@cell_flag(mark="!")
def eps_violation(evidence: Evidence) -> str | None:
    """An adversarial image differs from its original by more than eps."""
    if evidence.attack.eps is None or evidence.attack.norm is None:
        return None
    largest = evidence.records[evidence.attack.norm].max()
    return f"{largest:.5g} from the image" if largest > evidence.attack.eps + ROUNDING else None


@cell_flag(mark="o")
def noop_attack(evidence: Evidence) -> str | None:
    """The attack left more than 1 % of the images unchanged. For an attack that stops at success, these are
    images that it left after one answer although they are classified correctly: a random purifier or another
    classifier was wrong about them once."""
    records, unchanged = evidence.records, evidence.records.linf == 0
    if evidence.attack.may_return_image:
        stood = records.adversarial_label == records.label
        stood = records.correct if evidence.knowledge.uses_purifier else stood
        asked_once = records.forward_passes.between(1, evidence.knowledge.eot)
        unchanged = unchanged & stood & asked_once
    share = unchanged.mean()
    return f"{100 * share:.1f} % of the images are unchanged" if share > 0.01 else None


@cell_flag(mark="v")
def clean_acc_off(evidence: Evidence) -> str | None:
    """The victim's accuracy on clean images differs from its published accuracy by more than one point and by
    more than chance explains."""
    chosen_right = evidence.records.get("subset", pd.Series([""])).iloc[0].startswith(OF_VICTIM)
    if evidence.published is None or chosen_right:
        return None
    right = evidence.records.clean_label == evidence.records.label
    low, high = (100 * share for share in wilson(int(right.sum()), len(right)))
    difference = 100 * right.mean() - evidence.published
    both = f"{100 * right.mean():.1f} %, published {evidence.published:.1f} %"
    return both if abs(difference) > 1 and not low <= evidence.published <= high else None


@cell_flag(mark="?")
def probe_failed(evidence: Evidence) -> str | None:
    """A probe raised an exception, so it is unknown whether its flag would be raised."""
    failed = evidence.failed_probes
    if not failed:
        return None
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    return f"{len(failed)} of {len(failed) + len(evidence.probes)} probes failed ({reasons})"


def _fewer(seen: Tensor | None, what: str, *, by: float) -> str | None:
    """Return what was observed if the first column is misled more often than the second, by so many
    standard errors; otherwise None."""
    if seen is None:
        return None
    other, attack, n = seen[:, 0].float().mean().item(), seen[:, 1].float().mean().item(), len(seen)
    if other - attack > by * standard_error(other, n, attack, n):
        return f"{what} misleads on {100 * other:.1f} % of {n} images, the attack on {100 * attack:.1f} %"
    return None


def _but_for_eps(evidence: Evidence) -> tuple[Config, Config]:
    configs = evidence.cell.configs
    rest = configs["attack"].keys() - {"eps", "alpha", "steps"}
    return {name: configs["attack"][name] for name in rest}, configs["knowledge"]
