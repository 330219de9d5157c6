"""Build the same decoder with a narrower residual stream, or widen it again with zeros.

Where all norms are RMSNorms, the smaller model is what transformers makes of the smaller `hidden_size` d' (the size of
heads stays). With s = sqrt(d / d'),

    x / sqrt(Σ x² / d + eps)  =  s x / sqrt(Σ x² / d' + s² eps),

so gains take up s, and the epsilon s². A configuration has one epsilon, also for norms of queries and keys: what these
read takes up s, which cancels. An embedding that is multiplied by sqrt(d) (Gemma) takes up s too, and where it unembeds
as well, the last gain undoes that. Where there is a LayerNorm, see `part_norm`.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from skilloc.mistakes import WrongValue
from skilloc.models.copying import copied
from skilloc.models.norms import Form, forms_of, norm_form
from skilloc.models.stream import (
    MIXTURE,
    READ,
    TABLE,
    WRITE,
    Part,
    Place,
    fused_places,
    parts_of,
    places_of,
    sublayers,
    width_of,
)
from skilloc.models.unwrapped import FUSED, fused_of, fused_rows
from skilloc.models.weights import architecture, unwrapped

_SIZES = {READ: ("in_features", "nx"), WRITE: ("out_features", "nf"), TABLE: ("embedding_dim",)}

Resize = Callable[[Tensor, int, float], Tensor]
"""From a weight, its axis of the stream, and the zero of its entries, to the weight of another width."""


def cut_residual(model: Any, keep: Int[np.ndarray, " kept"]) -> Any:
    """Return a copy of a decoder that has only some coordinates of its residual stream.

    Args:
        model: a `TransformerBridge`; it is left as it was.
        keep: the coordinates that stay, rising, at least one.

    Raises:
        ValueError: if `keep` is no such thing, the model has a mixture of experts, or its parts are not known.
    """
    width, places = width_of(model), torch.as_tensor(np.asarray(keep, dtype=np.int64))
    if not len(places) or bool((places.diff() <= 0).any()) or not 0 <= int(places[0]) <= int(places[-1]) < width:
        raise WrongValue(
            f"`keep` is {np.asarray(keep)}; give the coordinates that stay, from 0 to {width - 1}, rising, at least one"
        )
    parts = parts_of(model)
    mixtures = [(part, "is a mixture of experts") for part in parts if part.role == MIXTURE]
    gainless = [
        (p, "divides, and has no gain") for p, form in forms_of(model, parts) if not (form.centred or form.gain)
    ]
    for part, what in (*mixtures, *gainless):
        raise WrongValue(
            f"`model` is a {architecture(model)}, whose {part.name} {what}, so that residual dimensions cannot be cut "
            "out; hold the mask instead"
        )
    if len(places) == width:
        return copied(model)
    return _resized(model, lambda weight, axis, _: weight.index_select(axis, places.to(weight.device)), len(places))


def widened(model: Any) -> Any:
    """Return a copy of a cut decoder in its stock shape: what was cut is zero, and lies behind what was kept.

    Its logits are those of `model`, and it can be saved for plain transformers.
    """
    widths = stream_widths(model)
    if widths is None:
        return copied(model)
    width, full = widths

    def padded(weight: Tensor, axis: int, zero: float) -> Tensor:
        shape = list(weight.shape)
        shape[axis] = full - width
        return torch.cat([weight, weight.new_full(shape, zero)], dim=axis)

    return _resized(model, padded, full)


def stream_widths(model: Any) -> tuple[int, int] | None:
    """Return the width of a residual stream that was cut, and that of the configuration; None if it was not cut."""
    stock = getattr(getattr(model.original_model, "config", None), "hidden_size", None)
    try:
        width = width_of(model)
    except ValueError:  # of a form that cannot be cut
        return None
    return None if stock is None or width == int(stock) else (width, int(stock))


@torch.no_grad()
def _resized(model: Any, resize: Resize, after: int) -> Any:
    """Return a copy of a decoder with another width: with the same function, but for the coordinates that go."""
    before = width_of(model)
    made = copied(model)
    parts = parts_of(made)
    forms = forms_of(made, parts)
    offsets = {id(part.module): form.offset for part, form in forms}
    for _, _, component in sublayers(made):
        if fused_of(component) is not None:
            # Which rows are whose does not change, but how they are found may build on the width of before.
            setattr(component, FUSED, fused_rows(component))
    replaced: dict[int, nn.Parameter] = {}
    for part in parts:
        for place in list(places_of(made, part)):
            offset = offsets.get(id(place.owner), 0.0) if place.attribute == "weight" else 0.0
            _replace(place, resize, -offset, replaced)
        _say(part.module, part.role, after)
    for place in list(fused_places(made)):
        _replace(place, resize, 0.0, replaced)
        _say(place.owner, READ, after)
    made.cfg.d_model = after
    if any(form.centred for _, form in forms):
        from skilloc.models.part_norm import in_part
    for part, form in forms:
        if form.centred:
            in_part(part, form, before, after)
        else:
            _scale_norm(part, form, before / after)
    if not any(form.centred for _, form in forms):
        _scale_queries(made, before / after)
        _scale_embedding(parts, forms, before, after)
    return made


def _replace(place: Place, resize: Resize, zero: float, replaced: dict[int, nn.Parameter]) -> None:
    old = place.weight
    if id(old) not in replaced:  # a weight that is tied to another one stays tied
        replaced[id(old)] = nn.Parameter(resize(old.detach(), place.axis, zero), requires_grad=old.requires_grad)
    place.owner._parameters[place.attribute] = replaced[id(old)]


def _say(module: Any, role: str, width: int) -> None:
    for name in _SIZES.get(role, ()):
        if hasattr(module, name):
            setattr(module, name, width)


def _scale_norm(part: Part, form: Form, ratio: float) -> None:
    """Let an RMSNorm divide by what it did at another width: `ratio` is the old one by the new one."""
    norm = part.module
    _scale_gain(norm, form, math.sqrt(ratio))
    setattr(norm, form.epsilon, getattr(norm, form.epsilon) * ratio)
    if hasattr(part.component.config, "eps"):
        # With hooks on the inside of a norm, the bridge computes it from its own configuration.
        part.component.config = copy.copy(part.component.config)
        part.component.config.eps *= ratio


def _scale_gain(norm: Any, form: Form, factor: float) -> None:
    gain = norm.weight
    gain.copy_((gain.double() + form.offset) * factor - form.offset)


def _scale_queries(model: Any, ratio: float) -> None:
    """Give norms of queries and keys the epsilon of the others, and let what they read take it up."""
    for _, _, component in sublayers(model):
        for name in ("q", "k"):
            if f"{name}_norm" not in component._modules or name not in component._modules:
                continue
            norm, projection = (unwrapped(component._modules[key]) for key in (f"{name}_norm", name))
            gain = norm._parameters.get("weight")
            form = norm_form(norm, len(gain)) if gain is not None and gain.ndim == 1 else None
            if form is None or form.centred:
                continue
            setattr(norm, form.epsilon, getattr(norm, form.epsilon) * ratio)
            for weight in (projection.weight, projection.bias):
                if weight is not None:
                    weight *= math.sqrt(ratio)


def _scale_embedding(parts: list[Part], forms: list[tuple[Part, Form]], before: int, after: int) -> None:
    """Multiply by the square root of the new width where the old one's was, and let the weights take it up."""
    named = {part.name: part.module for part in parts}
    embedding = named.get("embed")
    scale = getattr(embedding, "embed_scale", None)
    if scale is None or embedding is None or abs(float(scale) - math.sqrt(before)) > 1e-3 * math.sqrt(before):
        return
    new = torch.full_like(torch.as_tensor(scale), math.sqrt(after))
    # The scales as they are rounded in the weights' type.
    ratio = float(torch.as_tensor(scale).to(embedding.weight.dtype)) / float(new.to(embedding.weight.dtype))
    embedding.embed_scale = new if isinstance(scale, Tensor) else math.sqrt(after)
    if hasattr(embedding, "scalar_embed_scale"):
        embedding.scalar_embed_scale = math.sqrt(after)
    embedding.weight *= ratio
    if named["unembed"].weight is embedding.weight:
        for part, form in forms:
            if part.name == "ln_final":
                _scale_gain(part.module, form, 1 / ratio)
