"""What losses ask of examples: positions and fields by name."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.tasks.examples import Examples

LAST, ANSWER = "last", "answer"
"""Names of positions: where a prompt ends, and where its answer stands."""

WRONG, OPTIONS, RIGHT = "wrong", "options", "right"
"""Names of fields: wrong answers, of one token (`row` or `row k`) or of several (`row k pos`), filled up with IGNORE;
tokens of options (`row k`); which of the options is right (`row`), or, with one row per option, True for the right
one."""


def named(examples: Examples, name: str, loss: str) -> Tensor:
    """Return the positions of a name.

    Raises:
        ValueError: if the examples name none so.
    """
    if name not in examples.at:
        raise WrongValue(
            f'`loss` is "{loss}", which needs a position named "{name}", but these examples name '
            f"{', '.join(examples.at) or 'none'}; make them from prompts with answers"
        )
    return examples.at[name]


def as_mask(where: Tensor, like: Tensor) -> Tensor:
    """Return positions as True where they are, on `row pos`."""
    if where.dtype == torch.bool:
        return where
    return torch.arange(like.shape[1], device=like.device) == where[:, None]


def field_of(examples: Examples, name: str, loss: str) -> Tensor:
    """Return the field of a name.

    Raises:
        ValueError: if the examples have none.
    """
    if name not in examples.fields:
        cure = "`wrong` answers" if name == WRONG else "`choices`"
        raise WrongValue(
            f'`loss` is "{loss}", which needs a field "{name}", but these examples have '
            f"{', '.join(examples.fields) or 'none'}; give each example this field, or, of rows of a file, name "
            f"their field of {cure}"
        )
    return examples.fields[name]


def at_last(logits: Shaped[Tensor, "row *pos out"], examples: Examples) -> Shaped[Tensor, "row out"]:
    """Return the logits at the position named "last", or, without that name, at the last scored one."""
    if logits.ndim == 2:
        return logits
    last = examples.at.get(LAST)
    if last is None or last.dtype == torch.bool:
        where = examples.scored if last is None else last
        last = where.shape[1] - 1 - where.flip(1).int().argmax(dim=1)
    return logits[torch.arange(len(logits), device=logits.device), last]


def right_tokens(examples: Examples) -> Int[Tensor, " row"]:
    """Return the target at the position named "last", or, without that name, at the last scored one; or the class."""
    return examples.targets if examples.targets.ndim == 1 else at_last(examples.targets[..., None], examples)[:, 0]


def first_tokens(wrong: Int[Tensor, "row *rest"]) -> Int[Tensor, "row k"]:
    """Return the first token of each wrong answer, however their field has them."""
    return wrong.reshape(len(wrong), -1) if wrong.ndim < 3 else wrong[..., 0]
