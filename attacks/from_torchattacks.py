"""Attacks of torchattacks (Kim 2020, https://arxiv.org/abs/2010.01950), with parameters spelled out.

Defaults are those of torchattacks 3.5.1; a table states its own where a paper's time had others.
"""

from typing import ClassVar

import torchattacks
from torch import Tensor, nn

from attacks.attack import Attack, check_eps
from data.errors import InputError


class _InBall(Attack):
    """What the l-infinity attacks share: a radius, a step size, a number of steps."""

    norm: ClassVar = "linf"

    def __init__(self, *, eps: float, alpha: float, steps: int) -> None:
        self.eps = check_eps(eps)
        if alpha <= 0 or steps < 1:
            raise InputError(f"attack: expected alpha > 0 and steps >= 1, got alpha={alpha} steps={steps}")
        self.alpha, self.steps, self.passes = alpha, steps, steps


class FGSM(Attack):
    """FGSM: Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572. One step of size eps."""

    norm: ClassVar = "linf"
    passes = 1

    def __init__(self, *, eps: float = 8 / 255) -> None:
        self.eps = check_eps(eps)

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """One signed gradient step."""
        return torchattacks.FGSM(model, eps=self.eps)(images, labels)


class PGD(_InBall):
    """PGD: Madry et al. 2018, https://arxiv.org/abs/1706.06083."""

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
    ) -> None:
        super().__init__(eps=eps, alpha=alpha, steps=steps)
        self.random_start = random_start

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Signed gradient steps of size alpha, projected onto the ball."""
        attack = torchattacks.PGD(
            model, eps=self.eps, alpha=self.alpha, steps=self.steps, random_start=self.random_start
        )
        return attack(images, labels)


class BIM(_InBall):
    """BIM: Kurakin et al. 2017, https://arxiv.org/abs/1607.02533. PGD from the image itself."""

    def __init__(self, *, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10) -> None:
        super().__init__(eps=eps, alpha=alpha, steps=steps)

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Signed gradient steps of size alpha, clipped to the ball."""
        return torchattacks.BIM(model, eps=self.eps, alpha=self.alpha, steps=self.steps)(images, labels)


class MIFGSM(_InBall):
    """MI-FGSM: Dong et al. 2018, https://arxiv.org/abs/1710.06081. BIM with momentum `decay`."""

    def __init__(
        self, *, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int = 10, decay: float = 1.0
    ) -> None:
        super().__init__(eps=eps, alpha=alpha, steps=steps)
        self.decay = decay

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Signed steps along the accumulated gradient."""
        attack = torchattacks.MIFGSM(
            model, eps=self.eps, alpha=self.alpha, steps=self.steps, decay=self.decay
        )
        return attack(images, labels)


class CW(Attack):
    """C&W l2: Carlini & Wagner 2017, https://arxiv.org/abs/1608.04644.

    torchattacks' version: a fixed constant c (no binary search) and a stop when the batch's loss
    rises, which couples the images of a batch; hence one image at a time. Its margin takes the larger
    of a logit and 0, so it finds nothing where the deciding logits are negative. An image for which no
    adversarial example is found is returned unchanged.
    """

    norm: ClassVar = "l2"
    batch_coupled = True

    def __init__(self, *, c: float = 1.0, kappa: float = 0.0, steps: int = 50, lr: float = 0.01) -> None:
        if c <= 0 or steps < 1 or lr <= 0:
            raise InputError(
                f"attack: expected c > 0, steps >= 1 and lr > 0, got c={c} steps={steps} lr={lr}"
            )
        self.c, self.kappa, self.steps, self.lr, self.passes = c, kappa, steps, lr, steps

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Adam on distance + c * margin, in tanh space."""
        attack = torchattacks.CW(model, c=self.c, kappa=self.kappa, steps=self.steps, lr=self.lr)
        return attack(images, labels)
