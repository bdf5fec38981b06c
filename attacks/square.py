"""Square: Andriushchenko et al. 2020, Square Attack: a Query-efficient Black-box Adversarial Attack via
Random Search, https://arxiv.org/abs/1912.00049.

Images are (N, C, H, W) in [0, 1]. Each proposal changes one square window of an image, whose place is drawn
for that image alone, and is kept if the margin of the label's logit over the others gets smaller. Windows and
lengths are the paper's. The authors' code never draws the last row or column, and draws one place per batch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from attacks.attack import Attack, check_eps
from attacks.losses import margin
from attacks.rows import Found, Rows, each
from data.errors import InputError

SMALLER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)  # proposals after which a window's area halves
OF = 10_000  # number of proposals for which this schedule is made
BLOCK = 64  # proposals whose random numbers are drawn at once

Norm = Literal["linf", "l2"]


class Square(Attack):
    """Random search with square patches, on the margin of the logits.

    An image's result is the queried image with the smallest margin.

    Args:
        queries: budget of an image, including the query for the image itself.
        p_init: share of the image that the first squares cover.
        rescale: whether the schedule of a run of 10,000 queries is compressed to this budget.
        early_stop: whether an image is no longer queried once it is misclassified. Take false for a defense
            that draws, which may have erred by chance, and average several draws (knowledge.eot).
    """

    version = 4
    needs = "score"
    by_rows = True
    stops_early = True
    may_return_image = True

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        norm: Norm = "linf",
        queries: int = 5000,
        p_init: float = 0.8,
        rescale: bool = True,
        early_stop: bool = True,
    ) -> None:
        self.eps, self.norm = check_eps(eps, norm), norm
        if queries < 1 or not 0 < p_init <= 1:
            raise InputError(f"attack: expected queries >= 1, 0 < p_init <= 1, got {queries}, {p_init}")
        self.queries, self.p_init, self.rescale = queries, p_init, rescale
        self.early_stop = self.stops_early = early_stop
        self.forward = queries

    def craft(self, model: Rows, images: Tensor, labels: Tensor) -> Tensor:
        """Return the queried image with the smallest margin."""
        logits, adversarial = model.logits(images), images.clone()
        margins = margin(logits, labels)
        attacked = (logits.argmax(1) == labels) | (not self.early_stop)
        standing = attacked.nonzero().flatten()
        if self.queries == 1 or not len(standing):
            return adversarial
        search = random_search(
            model.take(standing),
            images[standing],
            labels[standing],
            eps=self.eps,
            norm=self.norm,
            queries=self.queries - 1,
            p_init=self.p_init,
            speed=OF / self.queries if self.rescale else 1.0,
            early_stop=self.early_stop,
        )
        better = search.margins < margins[standing]
        adversarial[standing[better]] = search.found.images[better]
        return adversarial


@dataclass
class Search:
    """The result of a search for each row.

    Attributes:
        margins: smallest margins (N,) that were found.
        found: the rows that were misclassified, and for every row the image with its smallest margin.
    """

    margins: Tensor
    found: Found


def random_search(
    rows: Rows,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm,
    queries: int,
    p_init: float = 0.8,
    speed: float = 1.0,
    early_stop: bool = True,
) -> Search:
    """Search from stripes (l-infinity) or bumps (l2) on, with up to `queries` queries for each row.

    Args:
        speed: factor by which the windows shrink faster than in the paper's schedule of 10,000 proposals.
        early_stop: whether a row is no longer queried once it is misclassified. Otherwise it goes on to
            smaller margins, since a defense that draws may have erred by chance.
    """
    fell, best = torch.zeros_like(labels, dtype=torch.bool), images.clone()
    smallest = torch.full(labels.shape, torch.inf, device=labels.device)
    places, moves = torch.arange(len(labels), device=labels.device), MOVES[norm](eps)
    for query in range(queries):
        if query == 0:
            proposed = moves.start(rows, images)
        else:
            at = (query - 1) % BLOCK
            if at == 0:
                drawn = rows.uniform(BLOCK, moves.numbers + images.shape[1])
            p = p_init / 2 ** sum(int((query - 1) * speed) > bound for bound in SMALLER)
            proposed = moves.propose(images, best[places], drawn[:, at], p)
        logits = rows.logits(proposed)
        margins, wrong = margin(logits, labels), logits.argmax(1) != labels
        better = (margins < smallest[places]) | (wrong & early_stop)
        best[places[better]] = proposed[better]
        smallest[places[better]] = margins[better]
        if wrong.any():
            fell[places[wrong]] = True
        if early_stop and wrong.any():
            rows, images, labels, places = rows.take(~wrong), images[~wrong], labels[~wrong], places[~wrong]
            if not len(places):
                break
            drawn = drawn[~wrong] if query else None
    return Search(smallest, Found(fell, best))


class _Linf:
    """Vertical stripes, then squares of one colour; every changed value goes to an end of its interval."""

    numbers = 2  # random numbers that a proposal draws, besides one for each channel

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def start(self, rows: Rows, images: Tensor) -> Tensor:
        signs = _signs(rows.uniform(images.shape[1], 1, images.shape[3]))
        return (images + self.eps * signs).clamp(0, 1)

    def propose(self, images: Tensor, best: Tensor, drawn: Tensor, p: float) -> Tensor:
        side = _side(images, p, 1)
        inside = _window(images, drawn[:, 0], drawn[:, 1], side)
        colour = (images + self.eps * _signs(drawn[:, 2:])[:, :, None, None]).clamp(0, 1)
        return torch.where(inside, colour, best)


class _L2:
    """Bumps all over the image; then each proposal moves the length of one window to another, which gets a
    new bump in addition to its old change. The whole change has length eps before it is clipped to [0, 1]."""

    numbers = 5

    def __init__(self, eps: float) -> None:
        self.eps = eps

    def start(self, rows: Rows, images: Tensor) -> Tensor:
        count, channels, height, width = images.shape
        side = max(height // 5, 2)
        down, along = height // side, width // side
        drawn = rows.uniform(down, along, 1 + channels)
        tiles = _bumps(drawn[..., 0].flatten(), side).view(count, down, along, 1, side, side)
        tiles = tiles * _signs(drawn[..., 1:])[..., None, None]
        top, left = (height - down * side) // 2, (width - along * side) // 2
        change = torch.zeros_like(images)
        change[:, :, top : top + down * side, left : left + along * side] = tiles.permute(
            0, 3, 1, 4, 2, 5
        ).reshape(count, channels, down * side, along * side)
        return self._on_sphere(images, change)

    def propose(self, images: Tensor, best: Tensor, drawn: Tensor, p: float) -> Tensor:
        side = _side(images, p, 3)
        side = min(side + 1 - side % 2, *images.shape[2:])
        channels, change = images.shape[1], best - images
        into, away = (_window(images, drawn[:, i], drawn[:, i + 1], side) for i in (0, 2))
        unused = (self.eps**2 - _squares(change).sum(1)).clamp_min(0) / channels
        mass = (_squares(torch.where(into | away, change, 0.0)) + unused[:, None]).sqrt()
        inside = torch.where(into, change, 0.0)
        old = inside / (_squares(inside).sqrt() + 1e-12)[:, :, None, None]
        bump = _placed(_bumps(drawn[:, 4], side), images, drawn[:, 0], drawn[:, 1])
        new = torch.where(into, bump * _signs(drawn[:, 5:])[:, :, None, None] + old, 0.0)
        new = new * (mass / (_squares(new).sqrt() + 1e-12))[:, :, None, None]
        return self._on_sphere(images, torch.where(into, new, torch.where(away, 0.0, change)))

    def _on_sphere(self, images: Tensor, change: Tensor) -> Tensor:
        length = _squares(change).sum(1).sqrt().clamp_min(1e-12)
        return (images + change * each(self.eps / length, images)).clamp(0, 1)


MOVES: dict[str, Callable[[float], _Linf | _L2]] = {"linf": _Linf, "l2": _L2}


def _side(images: Tensor, p: float, least: int) -> int:
    """Return the side of a square that covers the share `p` of the image."""
    height, width = images.shape[2:]
    return min(max(round(math.sqrt(p * height * width)), least), height, width)


def _corner(uniform: Tensor, side: int, whole: int) -> Tensor:
    """Return (N,) first pixels of windows, in 0 to whole - side, from numbers in [0, 1)."""
    return (uniform * (whole - side + 1)).long().clamp_max(whole - side)


def _window(images: Tensor, down: Tensor, along: Tensor, side: int) -> Tensor:
    """Return a mask (N, 1, H, W) of the pixels of each row's window."""
    axes = []
    for uniform, whole in ((down, images.shape[2]), (along, images.shape[3])):
        pixel = torch.arange(whole, device=images.device) - _corner(uniform, side, whole).unsqueeze(1)
        axes.append((pixel >= 0) & (pixel < side))
    return (axes[0].unsqueeze(2) & axes[1].unsqueeze(1)).unsqueeze(1)


def _placed(patches: Tensor, images: Tensor, down: Tensor, along: Tensor) -> Tensor:
    """Place each row's patch (side, side) in its window of (N, 1, H, W); values outside have no meaning."""
    count, side = patches.shape[:2]
    pixels = [
        (torch.arange(whole, device=images.device) - _corner(uniform, side, whole).unsqueeze(1)).clamp(
            0, side - 1
        )
        for uniform, whole in ((down, images.shape[2]), (along, images.shape[3]))
    ]
    row = torch.arange(count, device=images.device)[:, None, None]
    return patches[row, pixels[0].unsqueeze(2), pixels[1].unsqueeze(1)].unsqueeze(1)


def _signs(uniform: Tensor) -> Tensor:
    """Return -1 or 1, each with probability 1/2."""
    return torch.where(uniform < 0.5, -1.0, 1.0)


def _squares(change: Tensor) -> Tensor:
    """Return the (N, C) sums of squares."""
    return change.square().flatten(2).sum(2)


def _bumps(coins: Tensor, side: int) -> Tensor:
    """Return (N, side, side) bumps of length 1: a hill and a valley, stacked if the coin is below a half."""
    both = torch.cat([_hill(side // 2, side), -_hill(side - side // 2, side)])
    bump = (both / both.norm()).to(coins.device)
    return torch.where(coins[:, None, None] < 0.5, bump, bump.T)


def _hill(height: int, width: int) -> Tensor:
    """Return (height, width) nested rectangles, the k-th of which adds 1 / k**2, scaled to length 1."""
    hill, middle = torch.zeros(height, width), (height // 2, width // 2)
    for k in range(max(middle) + 1):
        rows, columns = (slice(max(centre - k, 0), centre + k + 1) for centre in middle)
        hill[rows, columns] += 1 / (k + 1) ** 2
    return hill / hill.norm()
