"""Residual dimensions of a decoder as units: where they are held, and which weights are theirs.

Coordinate d is in all that writes to the residual stream (embeddings, output projections, norms after these) and in all
that reads it (norms before projections, the inputs of these, the unembedding). Three things are one and the same:

    hold d at 0 at every place of its bank  =  set every weight of d to its zero  =  cut d out (`cut_residual`)

The zero of a weight is 0, but of a gain that is 1 + weight (Gemma), it is -1.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor

from skilloc.models.norms import form_of
from skilloc.models.stream import MIXTURE, NORM, POST, TABLE, WRITE, parts_of, places_of, unknown, width_of
from skilloc.units import RESIDUAL, Bank


def residual_bank(model: Any) -> Bank:
    """Return the residual dimensions of a decoder as units, R0, R1, ...

    Raises:
        ValueError: if the model has weights of which it is not known where in them the residual stream lies.
    """
    parts = parts_of(model)
    writes = tuple(part.hook for part in parts if part.role in (TABLE, WRITE, POST, MIXTURE))
    reads = tuple(part.hook for part in parts if part.role == NORM)
    there = model.hook_dict
    for hook in (*writes, *reads):
        if hook not in there:
            raise unknown(model, hook.removesuffix(".hook_out"))
    return Bank(RESIDUAL, width_of(model), RESIDUAL, -1, "R", axis=-1, writes=writes, reads=reads)


def residual_group(model: Any) -> tuple[dict[str, Float[Tensor, "unit 1 *rest"]], dict[str, float]]:
    """Return all weights of the residual dimensions, by name, and the zeros of those whose zero is not 0.

    They are the columns of the embeddings, the input columns of the projections that read the stream, the output rows
    and biases of those that write to it, gains and biases of norms, and the columns of the unembedding: once, if it is
    tied to the embedding. Left out are the biases of projections that only read, and of the unembedding. Writing to a
    view writes to the model. Dimension d is off where `part[d]` is `zeros.get(name, 0)` for every name and part.

    Raises:
        ValueError: if the model has weights of which it is not known where in them the residual stream lies.
    """
    views: dict[str, Tensor] = {}
    zeros: dict[str, float] = {}
    seen: set[int] = set()
    for part in parts_of(model):
        for place in places_of(model, part):
            if id(place.weight) in seen:
                continue
            seen.add(id(place.weight))
            views[place.name] = place.weight.movedim(place.axis, 0).unsqueeze(1)
            if part.role in (NORM, POST) and place.attribute == "weight" and (offset := form_of(model, part).offset):
                zeros[place.name] = -offset
    return views, zeros
