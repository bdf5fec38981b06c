"""Attacks of foolbox (Rauber et al. 2020, https://doi.org/10.21105/joss.02607)."""

import foolbox
from torch import Tensor, nn

from attacks.attack import Attack
from attacks.scaled import Scaled
from data.errors import InputError


class DDN(Attack):
    """DDN: Rony et al. 2019, https://arxiv.org/abs/1811.09600. It searches for the smallest l2 norm.

    An image for which no adversarial example is found is returned unchanged.

    Args:
        init_epsilon: the first radius.
        steps: number of steps; 100 in today's foolbox and in most of the paper's tables. The first
            pre-releases of foolbox 3 had 10, with which norms are far from the smallest (docs/findings.md).
        gamma: share by which a success shrinks the radius, and a failure enlarges it.
    """

    version = 1
    norm = "l2"
    may_return_image = True

    def __init__(self, *, init_epsilon: float = 1.0, steps: int = 100, gamma: float = 0.05) -> None:
        if init_epsilon <= 0 or steps < 1 or not 0 < gamma < 1:
            raise InputError(
                "attack: expected init_epsilon > 0, steps >= 1 and 0 < gamma < 1, "
                f"got init_epsilon={init_epsilon} steps={steps} gamma={gamma}"
            )
        self.init_epsilon, self.steps, self.gamma = init_epsilon, steps, gamma
        self.forward, self.backward = steps + 1, steps  # foolbox asks about its result once more

    def craft(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Take gradient steps on a sphere, whose radius shrinks after a success and grows after a failure."""
        wrapped = foolbox.PyTorchModel(Scaled(model), bounds=(0, 1), device=images.device)
        attack = foolbox.attacks.DDNAttack(init_epsilon=self.init_epsilon, steps=self.steps, gamma=self.gamma)
        raw, _, _ = attack(wrapped, images, labels, epsilons=None)
        return raw
