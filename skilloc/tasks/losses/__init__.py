"""What is measured: a number per example that grows as the model gets worse.

A loss is data. It says what its numbers are called and in which unit they are, gives one per example from the logits,
and, where it can, one per position. Cross-entropy is written in `nll` and nowhere else: closed forms and backward
passes by hand are for losses that are the negative log-likelihood of targets (`Loss.targets`), and ask here.

    cross_entropy      mean over the scored positions of -log p(target), nats per token
    answer             the same over the positions named "answer" only
    choice             -log of the probability that the model gives to the right one of the options, nats
    logit_difference   logit of the wrong answer minus logit of the right one, logits
    kl                 mean over the scored positions of KL(untouched model || this one), nats per token
    error              share of the scored positions whose largest logit is not the target's
    mistake            1 where any scored position, or the choice among options, is wrong: 1 - accuracy
    distillation(T, s) (1 - s) cross_entropy + s T^2 KL(teacher || this one), both at temperature T, nats per token
    custom(function)   any function of logits and examples
"""

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from skilloc.mistakes import WrongType, WrongValue
from skilloc.tasks.examples import Examples
from skilloc.tasks.losses import values
from skilloc.tasks.losses.fields import ANSWER, LAST, OPTIONS, RIGHT, WRONG, at_last
from skilloc.tasks.losses.given import custom
from skilloc.tasks.losses.loss import HOME, Draw, Loss, Upstream, Value
from skilloc.tasks.losses.nll import wide

__all__ = [
    "ANSWER",
    "HOME",
    "LAST",
    "OPTIONS",
    "READY",
    "RIGHT",
    "WRONG",
    "Draw",
    "Loss",
    "Upstream",
    "Value",
    "answer",
    "as_loss",
    "at_last",
    "choice",
    "cross_entropy",
    "custom",
    "distillation",
    "error",
    "kl",
    "logit_difference",
    "mistake",
]

cross_entropy = values.nll_loss("cross_entropy", values.all_targets)
answer = values.nll_loss("answer", values.answer_targets)
logit_difference = Loss(
    "logit_difference", "logits", values.logit_difference, chance=lambda *_: 0.0, identity=HOME + "logit_difference"
)
choice = Loss(
    "choice",
    "nats",
    values.choice,
    drawn=values.drawn_options,
    chance=values.number_of_options,
    identity=HOME + "choice",
)
kl = Loss(
    "kl",
    "nats",
    values.kl,
    flat=True,
    drawn=values.drawn_tokens(values.all_targets),
    prepare=lambda logits, _: logits.detach().float().log_softmax(dim=-1),
    identity=HOME + "kl",
)
error = Loss(
    "error",
    "share",
    values.error,
    differentiable=False,
    chance=lambda outputs, _: 1 - 1 / outputs,
    identity=HOME + "error",
)
mistake = Loss(
    "mistake",
    "share",
    values.mistake,
    differentiable=False,
    chance=values.chance_of_mistake,
    identity=HOME + "mistake",
)

READY: Mapping[str, Loss] = {
    loss.name: loss for loss in (cross_entropy, answer, choice, logit_difference, kl, error, mistake)
}
"""The losses that come with the package, by name."""


def distillation(temperature: float = 2.0, soft: float = 0.9) -> Loss:
    """Make the loss of a student that learns from a teacher [Hinton et al. 2015; paper, section 4.2].

        loss = (1 - soft) cross_entropy + soft T^2 KL(softmax(teacher / T) || softmax(student / T))

    The mean over the scored positions, in nats per token; T^2 keeps the size of the gradient whatever the temperature.
    A student equal to its teacher has (1 - soft) of its cross-entropy; with `soft` at 1, nothing.

    Args:
        temperature: T, by which logits are divided.
        soft: share of the part that comes from the teacher, from 0 to 1.

    Raises:
        ValueError: if the temperature is not above 0, or the share not from 0 to 1.

    Example:
        >>> import skilloc as sk
        >>> sk.losses.distillation(20.0, 0.9).name
        'distillation'
    """
    if not (0 < temperature < math.inf and 0 <= soft <= 1):
        raise WrongValue(
            f"`temperature` is {temperature} and `soft` {soft}; use a temperature above 0 and a share from 0 to 1"
        )

    def value(logits: Tensor, examples: Examples, known: Tensor | None) -> Tensor:
        if known is None:
            raise WrongValue('`loss` "distillation" needs a teacher; pass it to `distil`')
        hard = cross_entropy(logits, examples) if soft < 1 else 0.0
        return (1 - soft) * hard + soft * temperature**2 * values.divergence(logits / temperature, examples, known)

    return Loss(
        "distillation",
        "nats",
        value,
        # T^2 times the rounding of float32 is as large as what is left of a divergence near the end.
        prepare=lambda logits, _: (logits.detach().to(wide(logits.device)) / temperature).log_softmax(dim=-1),
        identity=f"{HOME}distillation({temperature!r}, {soft!r})",
    )


def as_loss(loss: "Loss | str | Callable[[Tensor, Examples], Tensor]") -> Loss:
    """Return the loss that an argument means: a `Loss`, the name of one that is ready, or a user's function.

    Raises:
        ValueError: if there is no loss of that name.
        TypeError: if it is something else.
    """
    if isinstance(loss, Loss):
        return loss
    if isinstance(loss, str):
        if loss not in READY:
            raise WrongValue(f'unknown `loss` "{loss}"; use one of {", ".join(READY)}, or pass a function')
        return READY[loss]
    if not callable(loss):
        raise WrongType(f"`loss` is a {type(loss).__name__}; pass a Loss, a name such as cross_entropy, or a function")
    return custom(loss)
