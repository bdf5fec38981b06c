"""Returns reconstructions along a fit together with its result."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from purifiers.fitting.trace import Iterate, TracePurifier
from purifiers.purifier import PurifierError, checked


def reconstructions(
    purifier: TracePurifier,
    images: Tensor,
    *,
    seeds: Sequence[int],
    victim: nn.Module | None,
    of: Literal["iterates", "crossings"],
    points: int,
) -> tuple[Tensor, Tensor]:
    """Return the purifier's result (N, C, H, W), and reconstructions (points, N, C, H, W) of the same run.

    Args:
        images: images (N, C, H, W) in [0, 1].
        seeds: one seed for each image.
        victim: the victim, for purifiers that use it.
        of: "iterates" at equal intervals up to the last, or the last "crossings" of a purifier that finds
            images on decision boundaries. An image with fewer crossings has its result in the free places.
        points: number of reconstructions, at most the number of steps of the trace.
    """
    readout = purifier.readout(images, victim if purifier.uses_victim else None)
    last = purifier.steps - 1
    steps = {round(last * (i + 1) / points) for i in range(points)} if of == "iterates" else set()
    iterates: list[Tensor] = []

    def observe(step: int, made: Tensor) -> None:
        readout.see(Iterate(step, made, images, victim))
        if step in steps:
            iterates.append(made)

    purifier.trace.stream(images, seeds, purifier.steps, observe)
    result = checked(purifier, images, readout.result())
    if isinstance(result, PurifierError):
        raise result
    if of == "iterates":
        return result, torch.stack(iterates)
    filled = [
        torch.cat([result[i].expand(points, -1, -1, -1), readout.boundary(i)])[-points:]
        for i in range(len(images))
    ]
    return result, torch.stack(filled, 1)
