"""What a training loop measures -> what the algorithms eat: one number a domain, in numpy.

Losses: `domain_losses`, `excess_losses`, `LossMeter`; `weighted_loss` turns loss weights back into
a loss to differentiate. Gradients: a `GradientProbe`, and on it `gradient_alignment`,
`gradient_gram`, `gradient_noise` and `forward_alignment`.

Under torch.distributed all results are sums over the ranks divided once, equal on every rank; so
every rank calls the same functions in the same order. Without it nothing is communicated. Domains
that were not there are NaN in the numbers and False in `present`; hand both to `update`.
"""

from mixstream.feedback.forward import forward_alignment
from mixstream.feedback.gradients import (
    DomainSignal,
    Gradient,
    GradientProbe,
    gradient_alignment,
    gradient_gram,
    gradient_products,
)
from mixstream.feedback.losses import (
    DomainLosses,
    LossMeter,
    domain_losses,
    excess_losses,
    token_losses,
    weighted_loss,
)
from mixstream.feedback.noise import GradientNoise, gradient_noise
from mixstream.feedback.undisturbed import undisturbed

__all__ = [
    "DomainLosses",
    "DomainSignal",
    "Gradient",
    "GradientNoise",
    "GradientProbe",
    "LossMeter",
    "domain_losses",
    "excess_losses",
    "forward_alignment",
    "gradient_alignment",
    "gradient_gram",
    "gradient_noise",
    "gradient_products",
    "token_losses",
    "undisturbed",
    "weighted_loss",
]
