"""The loops of torchattacks' MI-FGSM and DI-FGSM, in which a gradient that is 0 everywhere does no harm.

The library divides each gradient by its mean absolute value. A gradient of 0 thus makes the momentum NaN,
for any decay and from that step on. The sign of NaN is 0, so the image never moves again, which looks like
robustness. Here such a gradient adds nothing to the momentum.
"""

import torch
import torchattacks
from torch import Tensor
from torch.nn import functional as F


class DiverseMomentum(torchattacks.DIFGSM):
    """DI-FGSM, with the library's parameters and random transformations."""

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the adversarial examples; `labels` are the targets of a targeted attack."""
        adversarial, momentum = images.clone(), torch.zeros_like(images)
        if self.random_start:
            adversarial = (adversarial + torch.empty_like(images).uniform_(-self.eps, self.eps)).clamp(0, 1)
        for _ in range(self.steps):
            leaf = adversarial.requires_grad_()
            loss = F.cross_entropy(self.get_logits(self.input_diversity(leaf)), labels)
            (gradient,) = torch.autograd.grad(-loss if self.targeted else loss, leaf)
            size = gradient.abs().mean(dim=(1, 2, 3), keepdim=True)
            momentum = torch.where(size > 0, gradient / size, 0.0) + momentum * self.decay
            moved = leaf.detach() + self.alpha * momentum.sign()
            adversarial = (images + (moved - images).clamp(-self.eps, self.eps)).clamp(0, 1)
        return adversarial


class Momentum(DiverseMomentum):
    """MI-FGSM, which is DI-FGSM without transformations."""

    def input_diversity(self, images: Tensor) -> Tensor:
        """Return the images as they are."""
        return images
