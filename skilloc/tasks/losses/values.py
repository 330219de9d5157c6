"""The numbers of the losses that come with the package, one per example, and the labels drawn for their curvature."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.tasks.examples import IGNORE, Examples
from skilloc.tasks.losses.fields import (
    ANSWER,
    OPTIONS,
    RIGHT,
    WRONG,
    as_mask,
    at_last,
    field_of,
    first_tokens,
    named,
    right_tokens,
)
from skilloc.tasks.losses.loss import HOME, Draw, Loss, Upstream
from skilloc.tasks.losses.nll import mean_nll, of_rows, token_nll, wide


def drawn_tokens(targets_of: Callable[[Examples], Tensor]) -> Callable[[Tensor, Examples], Draw]:
    """Return what draws labels for every scored position from the logits."""

    def drawn(logits: Tensor, examples: Examples) -> Draw:
        targets = targets_of(examples)
        scored = (targets != IGNORE)[..., None]
        probabilities = logits.detach().float().softmax(dim=-1)
        flat = probabilities.flatten(0, -2)
        masked = probabilities * scored
        count = examples.per_example(scored.reshape(len(scored), -1).sum(dim=1).to(wide(logits.device)))

        def draw(generator: torch.Generator) -> Upstream:
            labels = torch.multinomial(flat, 1, generator=generator).view(targets.shape)
            return masked.scatter_add(-1, labels[..., None], -scored.to(masked)), count

        return draw

    return drawn


def nll_loss(name: str, targets_of: Callable[[Examples], Tensor]) -> Loss:
    """Make the mean negative log-likelihood of the targets that a function gives, in nats per token."""

    def value(logits: Tensor, examples: Examples, _: Tensor | None) -> Tensor:
        return of_rows(examples, mean_nll(logits, targets_of(examples)))

    def per_position(logits: Tensor, examples: Examples, _: Tensor | None) -> Tensor:
        targets = targets_of(examples)
        flat = targets.reshape(-1, 1)
        nll = token_nll(logits.reshape(len(flat), -1), flat).view(targets.shape).to(wide(logits.device))
        return nll.where(targets != IGNORE, torch.nan)

    return Loss(
        name,
        "nats",
        value,
        per_position=per_position,
        targets=targets_of,
        drawn=drawn_tokens(targets_of),
        chance=lambda outputs, _: math.log(outputs),
        identity=HOME + name,
    )


def all_targets(examples: Examples) -> Tensor:
    """Return the targets of all scored positions."""
    return examples.targets


def answer_targets(examples: Examples) -> Tensor:
    """Return the targets of the positions named "answer" only."""
    where = named(examples, ANSWER, "answer")
    return examples.targets.where(as_mask(where, examples.targets), IGNORE)


def logit_difference(logits: Tensor, examples: Examples, _: Tensor | None) -> Tensor:
    """Return the mean logit of the first tokens of the wrong answers minus that of the right one.

    Wrong answers of several tokens that begin as the right one does have no such difference, and are left out.

    Raises:
        ValueError: if all wrong answers of an example are left out.
    """
    scores = at_last(logits, examples).to(wide(logits.device))
    right, wrong = right_tokens(examples)[:, None], field_of(examples, WRONG, "logit_difference")
    first = first_tokens(wrong)
    there = (first != IGNORE) & ((first != right) | (wrong.ndim < 3))
    if not bool(there.any(dim=1).all()):
        raise WrongValue(
            '`loss` is "logit_difference", but all wrong answers of an example begin with the token that its right one '
            "begins with (such as a space that is a token of its own), so that it has no difference; use answer, or "
            "other wrong answers"
        )
    others = (scores.gather(1, first.where(there, 0)) * there).sum(dim=1) / there.sum(dim=1)
    return of_rows(examples, others - scores.gather(1, right)[:, 0])


def _option_scores(logits: Tensor, examples: Examples) -> tuple[Tensor, Tensor]:
    """Return the log-probability of every option, on `example option`, -inf where an example has fewer, and the right
    one."""
    right = field_of(examples, RIGHT, "choice")
    if examples.owner is None:
        options = field_of(examples, OPTIONS, "choice")
        scores = at_last(logits, examples).to(wide(logits.device)).gather(1, options.where(options != IGNORE, 0))
        return scores.masked_fill(options == IGNORE, -torch.inf).log_softmax(dim=1), right
    targets = examples.targets
    length = (targets != IGNORE).sum(dim=1)
    total = -mean_nll(logits, targets) * length
    order = torch.arange(len(total), device=total.device)
    first = examples.per_example(torch.ones_like(total)).cumsum(0).long()
    place = order - torch.cat([first.new_zeros(1), first[:-1]])[examples.owner]
    table = total.new_full((len(examples), int(place.max()) + 1), -torch.inf)
    table = table.index_put((examples.owner, place), total)
    return table.log_softmax(dim=1), place[right.bool()]


def choice(logits: Tensor, examples: Examples, _: Tensor | None) -> Tensor:
    """Return -log of the probability that the model gives to the right one of the options."""
    scores, right = _option_scores(logits, examples)
    return -scores.gather(1, right[:, None])[:, 0]


def drawn_options(logits: Tensor, examples: Examples) -> Draw:
    """Return what draws one of the options, with the probability that the model gives to each."""
    count = torch.ones(len(examples), dtype=wide(logits.device), device=logits.device)

    def draw(generator: torch.Generator) -> Upstream:
        with torch.enable_grad():
            leaf = logits.detach().requires_grad_(True)
            scores, _ = _option_scores(leaf, examples)
            labels = torch.multinomial(scores.detach().exp().float(), 1, generator=generator)
            (upstream,) = torch.autograd.grad(-scores.gather(1, labels).sum(), leaf)
        return upstream, count

    return draw


def number_of_options(_: int, examples: Examples) -> float:
    """Return the mean log of the number of options: `choice` of a model that knows nothing."""
    if examples.owner is None:
        counts = (field_of(examples, OPTIONS, "choice") != IGNORE).sum(dim=1).double()
    else:
        counts = examples.per_example(torch.ones(len(examples.owner))).double()
    return float(counts.log().mean())


def kl(logits: Tensor, examples: Examples, prepared: Tensor | None) -> Tensor:
    """Return the mean over the scored positions of KL(untouched model || this one)."""
    if prepared is None:
        raise WrongValue(
            '`loss` "kl" was not prepared; measure it through an Experiment, which runs the untouched model'
        )
    return divergence(logits, examples, prepared)


def divergence(logits: Tensor, examples: Examples, known: Tensor) -> Tensor:
    """Return the mean over the scored positions of KL(known || these logits), from log-probabilities."""
    scored = examples.scored
    new = logits.to(known.dtype).log_softmax(dim=-1)
    apart = (known.exp() * (known - new)).to(wide(logits.device)).sum(dim=-1)
    total = (apart * scored).reshape(len(scored), -1).sum(dim=1)
    return of_rows(examples, total / scored.reshape(len(scored), -1).sum(dim=1).clamp(min=1))


def error(logits: Tensor, examples: Examples, _: Tensor | None) -> Tensor:
    """Return the share of the scored positions whose largest logit is not the target's."""
    scored = examples.scored
    wrong = ((logits.argmax(dim=-1) != examples.targets) & scored).reshape(len(scored), -1).sum(dim=1)
    return of_rows(examples, wrong.to(wide(logits.device)) / scored.reshape(len(scored), -1).sum(dim=1).clamp(min=1))


def mistake(logits: Tensor, examples: Examples, _: Tensor | None) -> Tensor:
    """Return 1 where any scored position, or the choice among options, is wrong, and 0 elsewhere."""
    if RIGHT in examples.fields:
        scores, right = _option_scores(logits, examples)
        return (scores.argmax(dim=1) != right).to(wide(logits.device))
    return (error(logits, examples, None) > 0).to(wide(logits.device))


def chance_of_mistake(outputs: int, examples: Examples) -> float:
    """Return `mistake` of a model that knows nothing."""
    if RIGHT in examples.fields:
        return 1 - math.exp(-number_of_options(outputs, examples))
    return 1 - 1 / outputs
