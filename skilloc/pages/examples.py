"""What excites each unit most: the top examples of a circuit's nodes, as plain data for the page."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from skilloc.intervene import read_activations
from skilloc.tasks import IGNORE, Examples
from skilloc.units import Units, kind_of


def top_examples(
    model: Any,
    batches: Mapping[str, Examples],
    units: Units,
    names: Iterable[str],
    *,
    decode: Callable[[int], str] | None = None,
    n: int = 3,
    context: int = 10,
) -> dict[str, list[dict[str, Any]]]:
    """Return, for each named unit, the examples on which |activation| is largest, one per example of a subtask.

    The activation of a neuron is its value; that of a head the Euclidean norm of its output z. On text an example is
    the token where the unit is excited most, with the tokens around it; of an MLP it is the input, as bits or numbers.

    Args:
        model: a `TransformerBridge` or an `MLP`.
        batches: examples of each subtask.
        units: the unit axis of the model.
        names: of the units, such as the nodes of a circuit; names that are no unit (tokens, logits) are left out.
        decode: the text of a token id; the id in decimals if not given.
        n: examples per unit and subtask.
        context: tokens before the one that excites most; half as many after it.

    Returns:
        For each unit a list of records: "subtask"; "tokens"; "activations" in the model's own units, one per token, or
        a single one for an input of an MLP; "at", the position in the text of the token that excites most, from 0; or
        "target", the class of that input.

    Raises:
        ValueError: if `n` is below 1.
    """
    if n < 1:
        raise ValueError(f"`n` is {n}; ask for at least 1 example")
    known = set(units.names)
    wanted = [name for name in names if name in known]
    place = {name: units.locate(u) for u, name in enumerate(units.names) if name in set(wanted)}
    hooks = [hook for hook in units.hooks if any(place[name][0] == hook for name in wanted)]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    if not hooks:
        return found
    read = Units(tuple(hooks), tuple(units.span(hook).stop - units.span(hook).start for hook in hooks))
    for subtask, batch in batches.items():
        activations = read_activations(model, batch, read)
        for name in wanted:
            hook, position = place[name]
            values = _of_unit(activations[hook], hook, position)
            records = _examples(values, batch, decode, n, context)
            found[name] += [{"subtask": subtask, **record} for record in records]
    return {name: sorted(records, key=_peak, reverse=True) for name, records in found.items()}


def _of_unit(activations: Tensor, hook: str, position: int) -> Tensor:
    """Activations of one unit, on `example pos`, or `example` of an MLP."""
    if kind_of(hook) == "head":
        activations = torch.linalg.vector_norm(activations, dim=-1)
    return activations[..., position].float().cpu()


def _peak(record: Mapping[str, Any]) -> float:
    return max(abs(float(value)) for value in record["activations"])


def _examples(
    values: Tensor, batch: Examples, decode: Callable[[int], str] | None, n: int, context: int
) -> list[dict[str, Any]]:
    size = values.abs().reshape(len(values), -1).amax(dim=1)
    # A stable sort, so that equal activations always come in the same order.
    best = torch.sort(size, descending=True, stable=True).indices[:n].tolist()
    if batch.inputs.is_floating_point():
        return [_of_input(batch.inputs[e], float(values[e]), int(batch.targets[e])) for e in best]
    records = []
    for e in best:
        peak = int(values[e].abs().argmax())
        span = slice(max(0, peak - context), peak + context // 2 + 1)
        ids = batch.inputs[e, span].tolist()
        tokens = [str(i) if decode is None else decode(i) for i in ids]
        records.append({"tokens": tokens, "activations": values[e, span].tolist(), "at": peak})
    return records


def _of_input(inputs: Tensor, activation: float, target: int) -> dict[str, Any]:
    bits = bool(((inputs == 0) | (inputs == 1)).all())
    tokens = [str(int(value)) if bits else f"{value:.3g} " for value in inputs.tolist()]
    said = {} if target == IGNORE else {"target": f"target {target}"}
    return {"tokens": tokens, "activations": [activation], **said}
