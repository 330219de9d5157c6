"""From a model to its face: the only place that asks what a model is."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skilloc.mistakes import WrongType, WrongValue, of_kind, told
from skilloc.models.decoder import decoder_face
from skilloc.models.described import Described, described_face
from skilloc.models.face import Face, Weights
from skilloc.models.mlp import MLP
from skilloc.models.mlp_face import mlp_face
from skilloc.models.saving import Shape
from skilloc.units import ALONE, KINDS, RESIDUAL, Units


def face_of(model: nn.Module) -> Face:
    """Return what skilloc asks of a model.

    Raises:
        TypeError: if it is no module, or one in which nobody has named the units.
    """
    if isinstance(model, MLP):
        return mlp_face(model)
    if isinstance(model, Described):
        return described_face(model)
    if isinstance(model, nn.Module) and "blocks" in model._modules and hasattr(model, "original_model"):
        return decoder_face(model)
    if not isinstance(model, nn.Module):
        cure = f"what open_model({model!r}) returns as its `model`" if isinstance(model, str) else "such as an MLP"
        if isinstance(getattr(model, "model", None), nn.Module):
            cure = "which opened.model is, where open_model returned `opened`"
        raise WrongType(f"`model` is {told(model)}; pass a module, {cure}")
    raise WrongType(
        f"`model` is {told(model)}, whose units are not known; open a language model with open_model, or name the "
        "units of any other module with describe(module, units={...})"
    )


def units_of(model: nn.Module, *, kinds: Iterable[str] = KINDS) -> Units:
    """Return a unit axis of a model, in forward order.

    Args:
        model: a bridge, an `MLP`, or a described module.
        kinds: neurons, heads and experts share an axis, with whatever a description declares; "residual" and "layer"
            have axes of their own. Neurons and heads, as far as the model has them, if not given.

    Raises:
        ValueError: if a kind is unknown, the model has no units of these kinds, or the kinds overlap.

    Example:
        >>> import skilloc as sk
        >>> units = sk.units_of(sk.MLP(6, 2, width=8, depth=3))
        >>> len(units), units.hooks
        (16, ('layers.0.hook_post', 'layers.1.hook_post'))
    """
    of_kind("kinds", kinds, Iterable, 'name kinds of unit, such as ("neuron", "head")')
    face, wanted = face_of(model), [kinds] if isinstance(kinds, str) else list(kinds)
    banks = face.banks()
    there = list(dict.fromkeys(bank.kind for bank in banks))
    if wanted == list(KINDS) and not set(there) & set(KINDS):
        wanted = [kind for kind in there if kind not in ALONE]
    missing = [kind for kind in wanted if kind not in there]
    if missing and not (wanted == list(KINDS) and len(missing) < len(wanted)):
        raise WrongValue(
            f'unknown unit kind "{missing[0]}": `model` is a {face.architecture}, which has units of kind '
            f"{' or '.join(there) or 'none'}; {_advice(missing[0], there)}"
        )
    chosen = tuple(bank for bank in banks if bank.kind in wanted)
    if RESIDUAL in wanted and getattr(getattr(model, "cfg", None), "use_attn_result", False):
        raise WrongValue(
            "`model` has use_attn_result on, which goes past a place where residual dimensions are held; switch it off "
            "first: model.set_use_attn_result(False)"
        )
    if not chosen:
        raise WrongValue(f"`kinds` is {tuple(wanted)}, which names no unit of this {face.architecture}; name one kind")
    return Units(chosen)


def _advice(kind: str, there: Sequence[str]) -> str:
    """Return what to ask for instead of a kind that is not there."""
    near = difflib.get_close_matches(kind, there, n=1)
    return f'did you mean "{near[0]}"?' if near else "name one of these" if there else "use a model with units"


def output_weight(model: nn.Module, hook: str) -> Tensor:
    """Return the weights through which the units of a bank write, `d_in d_out`, as a view.

    Row n is what neuron n writes per unit of activation. Rows `d_head * h` to `d_head * (h + 1)` are those of head h.

    Raises:
        ValueError: if the bank has no such weights.
    """
    return face_of(model).write(hook)


def group(model: nn.Module, hook: str) -> Weights:
    """Return all weights of the units of a bank, by name: views `unit d_unit *rest`. Without any of its weights, a unit
    is silent. Writing to a view writes to the model.

    Raises:
        ValueError: if no weights belong to single units.
    """
    return face_of(model).group(hook)


@contextmanager
def zeroed(model: nn.Module, hook: str, index: int | Sequence[int]) -> Iterator[None]:
    """Silence units by zeroing all their weights (`group`), and put every bit back on leaving.

    The model then computes what it computes when these units are held at zero.

    Args:
        model: changed in place until the context is left.
        hook: the bank of the units.
        index: position, or positions, in that bank.

    Raises:
        ValueError: if the bank has no such weights, or has no unit at `index`.
    """
    views, zeros = group(model, hook), face_of(model).zeros(hook)
    positions = [index] if isinstance(index, int) else list(index)
    width = len(next(iter(views.values())))
    for position in positions:
        if not 0 <= position < width:
            raise WrongValue(f"`index` is {position}, but {hook} has {width} units; count from 0")
    with torch.no_grad():
        saved = {name: view[positions].clone() for name, view in views.items()}
        for name, view in views.items():
            view[positions] = zeros.get(name, 0.0)
    try:
        yield
    finally:
        with torch.no_grad():
            for name, view in views.items():
                view[positions] = saved[name]


def save_model(model: nn.Module, folder: Path | str, *, tokenizer: Any = None, shape: Shape = "as it is") -> None:
    """Write a model as a folder that `open_model` opens, whole or not at all.

    Args:
        model: an `MLP`, or a bridge around a model of transformers, pruned or not.
        folder: a new folder.
        tokenizer: the model's tokenizer; a language model without one cannot be opened again.
        shape: of a pruned language model: "as it is"; or with units of zeros, so that plain transformers opens it
            too, with equal logits: "rectangular", all layers as wide as the widest one, or "padded", the shape that it
            was made with.

    Raises:
        FileExistsError: if the folder is there already.
        ValueError: if the model is neither, has no such shape, or a language model comes without its tokenizer.

    Example:
        >>> import tempfile
        >>> import skilloc as sk
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sk.save_model(sk.MLP(6, 2, width=8, depth=3), f"{folder}/net")
        ...     len(sk.units_of(sk.open_model(f"{folder}/net").model))
        16
    """
    face = face_of(model)
    if face.save is None:
        raise WrongValue(
            f"`model` is a {face.architecture}, which has no file format of its own; save its state_dict with torch"
        )
    face.save(Path(folder), tokenizer, shape)
