"""Gradient attacks of torchattacks (Kim 2020, https://arxiv.org/abs/2010.01950), with explicit parameters.

Defaults are those of torchattacks 3.5.1; a table states its own values if a paper's version had others.
"""

from typing import Literal

import torch
import torchattacks
from torch import Tensor, nn

from attacks.attack import Attack, check_eps
from attacks.momentum import DiverseMomentum, Momentum
from attacks.scaled import Scaled
from data.errors import InputError

Norm = Literal["linf", "l2"]


class _Led(Attack):
    """An attack that goes away from an image's label or, if `targeted`, towards another class, which is drawn
    at random for each image and takes one more forward pass."""

    norm = "linf"
    targeted: bool

    def led(
        self, attack: torchattacks.attack.Attack, model: nn.Module, images: Tensor, labels: Tensor
    ) -> Tensor:
        """Run the library's attack, away from the label or towards another class."""
        if not self.targeted:
            return attack(images, labels)
        attack.set_mode_targeted_by_label(quiet=True)
        with torch.no_grad():
            classes = model(images).shape[1]
        further = (torch.rand(len(labels), device=labels.device) * (classes - 1)).long()
        return attack(images, (labels + 1 + further) % classes)


class _Steps(_Led):
    """The base class of attacks that take steps in a ball."""

    def __init__(self, *, eps: float, alpha: float, steps: int, targeted: bool = False) -> None:
        self.eps = check_eps(eps, self.norm)
        if alpha <= 0 or steps < 1:
            raise InputError(f"attack: expected alpha > 0 and steps >= 1, got alpha={alpha} steps={steps}")
        self.alpha, self.steps, self.targeted = alpha, steps, targeted
        self.forward, self.backward = steps + targeted, steps


class FGSM(_Led):
    """FGSM: Goodfellow et al. 2015, https://arxiv.org/abs/1412.6572. One step of size eps."""

    version = 1

    def __init__(self, *, eps: float = 8 / 255, targeted: bool = False) -> None:
        self.eps, self.targeted = check_eps(eps), targeted
        self.forward, self.backward = 1 + targeted, 1

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Take one signed gradient step."""
        return self.led(torchattacks.FGSM(model, eps=self.eps), model, images, labels)


class PGD(_Steps):
    """PGD: Madry et al. 2018, https://arxiv.org/abs/1706.06083; in an l-infinity or an l2 ball."""

    version = 4

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        random_start: bool = True,
        targeted: bool = False,
        norm: Norm = "linf",
    ) -> None:
        self.norm = norm
        super().__init__(eps=eps, alpha=alpha, steps=steps, targeted=targeted)
        self.random_start = random_start

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Take signed or normalised gradient steps of size alpha, and project each onto the ball."""
        options = {
            "eps": self.eps,
            "alpha": self.alpha,
            "steps": self.steps,
            "random_start": self.random_start,
        }
        if self.norm == "linf":
            attack = torchattacks.PGD(model, **options)
        else:
            attack = torchattacks.PGDL2(Scaled(model), **options)
        return self.led(attack, model, images, labels)


class EOTPGD(_Steps):
    """PGD whose every step follows the mean gradient of several draws of the defense: the reference
    attack on stochastic purifiers of Lee and Kim 2023, https://arxiv.org/abs/2303.09051 (200 steps of 20
    draws). The gradients are averaged; knowledge's `eot` averages logits instead.
    """

    version = 1

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 200,
        draws: int = 20,
        random_start: bool = True,
    ) -> None:
        super().__init__(eps=eps, alpha=alpha, steps=steps)
        if draws < 1:
            raise InputError(f"attack.draws: expected at least 1, got {draws}")
        self.draws, self.random_start = draws, random_start
        self.forward = self.backward = steps * draws

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Take signed steps along mean gradients."""
        attack = torchattacks.EOTPGD(
            model,
            eps=self.eps,
            alpha=self.alpha,
            steps=self.steps,
            eot_iter=self.draws,
            random_start=self.random_start,
        )
        return attack(images, labels)


class BIM(_Steps):
    """BIM or I-FGSM: Kurakin et al. 2017, https://arxiv.org/abs/1607.02533. PGD from the image itself.

    If `steps` is None, the number of steps is the paper's min(255 eps + 4, 1.25 * 255 eps), rounded down.
    """

    version = 1

    def __init__(
        self, *, eps: float = 8 / 255, alpha: float = 2 / 255, steps: int | None = 10, targeted: bool = False
    ) -> None:
        if steps is None:
            levels = 255 * check_eps(eps)
            steps = max(1, int(min(levels + 4, 1.25 * levels) + 1e-9))
        super().__init__(eps=eps, alpha=alpha, steps=steps, targeted=targeted)

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Take signed gradient steps of size alpha, and clip each to the ball."""
        attack = torchattacks.BIM(model, eps=self.eps, alpha=self.alpha, steps=self.steps)
        return self.led(attack, model, images, labels)


class MIFGSM(_Steps):
    """MI-FGSM: Dong et al. 2018, https://arxiv.org/abs/1710.06081. BIM with momentum `decay`."""

    version = 1

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        decay: float = 1.0,
        targeted: bool = False,
    ) -> None:
        super().__init__(eps=eps, alpha=alpha, steps=steps, targeted=targeted)
        self.decay = decay

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Take signed steps along the accumulated gradient."""
        attack = Momentum(model, eps=self.eps, alpha=self.alpha, steps=self.steps, decay=self.decay)
        return self.led(attack, model, images, labels)


class DIFGSM(_Steps):
    """DI-FGSM: Xie et al. 2019, https://arxiv.org/abs/1803.06978. With probability `diversity`, a step uses
    the image resized and padded. The library draws once for a batch, so each image has its own attack.

    Args:
        resize: sizes are drawn between the image's size and this multiple of it.
    """

    version = 1
    batch_coupled = True

    def __init__(
        self,
        *,
        eps: float = 8 / 255,
        alpha: float = 2 / 255,
        steps: int = 10,
        decay: float = 0.0,
        resize: float = 0.9,
        diversity: float = 0.5,
        random_start: bool = False,
        targeted: bool = False,
    ) -> None:
        super().__init__(eps=eps, alpha=alpha, steps=steps, targeted=targeted)
        if not 0 < resize != 1 or not 0 <= diversity <= 1:
            raise InputError(
                "attack: expected resize > 0 other than 1 and a probability diversity, "
                f"got resize={resize} diversity={diversity}"
            )
        self.decay, self.resize, self.diversity, self.random_start = decay, resize, diversity, random_start

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Take signed steps along gradients of transformed images."""
        attack = DiverseMomentum(
            model,
            eps=self.eps,
            alpha=self.alpha,
            steps=self.steps,
            decay=self.decay,
            resize_rate=self.resize,
            diversity_prob=self.diversity,
            random_start=self.random_start,
        )
        return self.led(attack, model, images, labels)


class CW(Attack):
    """C&W l2: Carlini & Wagner 2017, https://arxiv.org/abs/1608.04644.

    torchattacks' version has a fixed constant c (no binary search), and stops when the batch's loss rises,
    which couples the images of a batch. Here each image has its own attack, which stops when that image's
    own loss rises. The papers' runs stopped whole batches at once, whose sizes they do not state, so their
    images may have had more or fewer steps. The margin takes the larger of a logit and 0, so the attack finds
    nothing if the deciding logits are negative. An image for which no adversarial example is found is
    returned unchanged. Values of exactly 0 or 1 never move, since their tanh has no gradient, so the attack
    has almost no effect on MNIST.
    """

    version = 1
    norm = "l2"
    batch_coupled = True
    may_return_image = True

    def __init__(self, *, c: float = 1.0, kappa: float = 0.0, steps: int = 50, lr: float = 0.01) -> None:
        if c <= 0 or steps < 1 or lr <= 0:
            raise InputError(
                f"attack: expected c > 0, steps >= 1 and lr > 0, got c={c} steps={steps} lr={lr}"
            )
        self.c, self.kappa, self.steps, self.lr = c, kappa, steps, lr
        self.forward = self.backward = steps

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Minimise distance + c * margin by Adam, in tanh space."""
        attack = torchattacks.CW(model, c=self.c, kappa=self.kappa, steps=self.steps, lr=self.lr)
        return attack(images, labels)
