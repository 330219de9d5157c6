"""The losses of a model on examples, under whatever hooks it has now."""

import torch
from jaxtyping import Float64
from torch import Tensor, nn

from skilloc.mistakes import WrongValue
from skilloc.models.face import Face
from skilloc.models.makers import face_of
from skilloc.tasks import Examples, blocks_of
from skilloc.tasks.losses import Loss, cross_entropy

MAX_LOGITS = 2**26
"""Examples are passed in blocks whose widest tensor has at most this many entries (256 MB in float32), if nobody says
otherwise."""


def blocks(face: Face, examples: Examples, entries: int | None = None) -> list[slice]:
    """Cut examples into blocks that pass through a model together.

    Args:
        face: the model.
        examples: all of them.
        entries: of the widest tensor of a pass, at most; `MAX_LOGITS` if not given.
    """
    return blocks_of(examples, face.widest, entries or MAX_LOGITS)


def check_model(model: nn.Module, examples: Examples) -> None:
    """Refuse a model that cannot be measured on some examples.

    Raises:
        ValueError: if the model is in training mode, or cannot take these inputs and targets.
    """
    # A part may be put back into training behind the model's back: a described module shares what it describes.
    if any(part.training for part in model.modules()):
        raise WrongValue("`model` is in training mode, where dropout is random; call model.eval() first")
    face_of(model).check(examples)


def losses(
    model: nn.Module, examples: Examples, loss: Loss = cross_entropy, prepared: Tensor | None = None
) -> Float64[Tensor, " example"]:
    """Return the loss of each example, under whatever hooks the model has now.

    Args:
        model: a bridge, an `MLP` or a described module, in evaluation mode.
        examples: what is asked.
        loss: in whose unit the result is.
        prepared: what the loss knows of the untouched model, on rows (`Loss.prepare`).

    Raises:
        ValueError: if the model cannot be measured on the examples.
    """
    check_model(model, examples)
    return losses_of(face_of(model), examples, loss, prepared)


@torch.no_grad()
def losses_of(face: Face, examples: Examples, loss: Loss, prepared: Tensor | None = None) -> Tensor:
    """Return the loss of each example, for examples that were checked."""
    found = []
    for block in blocks(face, examples):
        some = examples.part(block)
        known = None if prepared is None else prepared[examples.rows_of(block)]
        found.append(loss(face.run(some.inputs), some, known))
    return torch.cat(found)


@torch.no_grad()
def prepared_for(face: Face, examples: Examples, loss: Loss, entries: int | None = None) -> Tensor | None:
    """Return what a loss must know of the untouched model, on rows; None for nothing. Blocks are as in `blocks`."""
    if loss.prepare is None:
        return None
    parts = [examples.part(block) for block in blocks(face, examples, entries)]
    return torch.cat([loss.prepare(face.run(some.inputs), some) for some in parts])
