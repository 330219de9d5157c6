"""What excites each unit most: the top examples of a circuit's nodes, as plain data for the page."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from skilloc.experiment import Experiment, read_activations
from skilloc.experiment.axes import by_unit
from skilloc.mistakes import WrongValue, whole
from skilloc.study.attention import patterns_of, percents
from skilloc.tasks import IGNORE, Examples
from skilloc.units import HEAD, Bank, Units


def top_examples(
    experiment: Experiment,
    names: Iterable[str],
    *,
    decode: Callable[[int], str] | None = None,
    n: int = 3,
    context: int = 10,
) -> dict[str, list[dict[str, Any]]]:
    """Return, for each named unit, the examples on which |activation| is largest, one per example of a subtask.

    The activation of a neuron is its value; that of a unit with several entries (the output z of a head, a channel of
    an image) their Euclidean norm. A unit of several places is read at the last of them: a residual dimension where the
    final norm reads it. On text an example is the token where the unit is excited most, with the tokens around it; of
    other models it is the input, as bits or numbers, or, where that is more than a vector, its number in the subtask.

    Args:
        experiment: the model, its units and the examples.
        names: of the units, such as the nodes of a circuit; names that are no unit (tokens, logits) are left out.
        decode: the text of a token id; the id in decimals if not given.
        n: examples per unit and subtask.
        context: tokens before the one that excites most; half as many after it.

    Returns:
        For each unit a list of records: "subtask"; "tokens"; "activations" in the model's own units, one per token, or
        a single one for a whole input; "at", the position in the row of the token that excites most, from 0; or
        "target", the class of that input. Of a head of a transformer also "attention": for each of the tokens, how many
        percent of the head's attention go to each of them up to itself.

    Raises:
        ValueError: if `n` is below 1.
    """
    whole("n", n)
    whole("context", context, 0)
    if n < 1:
        raise WrongValue(f"`n` is {n}; ask for at least 1 example")
    units = experiment.units
    known = set(units.names)
    wanted = [name for name in names if name in known]
    place = {name: units.locate(u) for u, name in enumerate(units.names) if name in set(wanted)}
    banks = [last_place(bank) for bank in units.banks if any(place[name][0] == bank.name for name in wanted)]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in wanted}
    if not banks:
        return found
    read = Units(tuple(banks))
    for subtask, given in experiment.examples.items():
        examples = given.to(experiment.device)
        activations = read_activations(experiment.model, examples, read)
        patterns = patterns_of(experiment, examples, banks)
        for name in wanted:
            bank, position = read.bank(place[name][0]), place[name][1]
            values = of_unit(activations[bank.places[0]], bank, position)
            for row, record in _records(values, given, decode, n, context):
                found[name].append({"subtask": subtask, **record})
                if bank.kind == HEAD and "at" in record and bank.name in (pattern := patterns(row)):
                    found[name][-1]["attention"] = percents(
                        pattern[bank.name][position], _span(given, row, record["at"], context)
                    )
    return {name: sorted(records, key=_peak, reverse=True) for name, records in found.items()}


def last_place(bank: Bank) -> Bank:
    """Return a bank that is read at the last of its places."""
    return replace(bank, writes=bank.places[-1:], reads=())


def of_unit(activations: Tensor, bank: Bank, position: int) -> Float[Tensor, "row *pos"]:
    """Return the activations of one unit."""
    own = by_unit(activations, bank)[..., position, :]
    size = own[..., 0] if bank.axis == -1 else torch.linalg.vector_norm(own, dim=-1)
    return size.float().cpu()


def _peak(record: Mapping[str, Any]) -> float:
    return max(abs(float(value)) for value in record["activations"])


def _records(
    values: Float[Tensor, "row *pos"], examples: Examples, decode: Callable[[int], str] | None, n: int, context: int
) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows that excite most, and what is shown of them."""
    mask = examples.mask
    if mask is not None and values.shape == mask.shape:
        values = values.masked_fill(~mask.cpu(), 0)
    size = values.abs().reshape(len(values), -1).amax(dim=1)
    best = _best(size, examples, n)
    if examples.tokens is None:
        return [(row, _of_input(values, examples, row)) for row in best]
    return [(row, _of_text(values[row], examples, row, decode, context)) for row in best]


def _best(size: Float[Tensor, " row"], examples: Examples, n: int) -> list[int]:
    """Return the rows of largest size, one of each example."""
    found: dict[int, int] = {}
    # A stable sort, so that equal activations always come in the same order.
    for row in torch.sort(size, descending=True, stable=True).indices.tolist():
        example = row if examples.owner is None else int(examples.owner[row])
        found.setdefault(example, row)
        if len(found) == n:
            break
    return list(found.values())


def _of_text(
    values: Float[Tensor, "*pos"], examples: Examples, row: int, decode: Callable[[int], str] | None, context: int
) -> dict[str, Any]:
    tokens = examples.tokens
    assert tokens is not None
    per_token = values.shape == tokens[row].shape
    # A unit that has one value for the whole text is shown with where that begins.
    peak = int(values.abs().argmax()) if per_token else _real(examples, row).start
    span = _span(examples, row, peak, context)
    said = [str(i) if decode is None else decode(i) for i in tokens[row, span].tolist()]
    activations = values[span].tolist() if per_token else [_largest(values)]
    return {"tokens": said, "activations": activations, "at": peak}


def _real(examples: Examples, row: int) -> slice:
    """Return where a row is no padding."""
    assert examples.tokens is not None
    if examples.mask is None:
        return slice(0, examples.tokens.shape[1])
    real = examples.mask[row].cpu().nonzero()[:, 0]
    return slice(int(real[0]), int(real[-1]) + 1)


def _span(examples: Examples, row: int, peak: int, context: int) -> slice:
    """Return which tokens are shown around one."""
    real = _real(examples, row)
    return slice(max(real.start, peak - context), min(real.stop, peak + context // 2 + 1))


def _largest(values: Float[Tensor, "*pos"]) -> float:
    """Return the value that is largest in size."""
    flat = values.flatten()
    return float(flat[flat.abs().argmax()])


def _of_input(values: Float[Tensor, "row *pos"], examples: Examples, row: int) -> dict[str, Any]:
    given, target = examples.first[row], examples.targets[row]
    if isinstance(examples.inputs, Tensor) and given.ndim == 1:
        bits = bool(((given == 0) | (given == 1)).all())
        tokens = [str(int(value)) if bits else f"{value:.3g} " for value in given.tolist()]
    else:
        tokens = [f"example {row if examples.owner is None else int(examples.owner[row])} "]
    said = {"target": f"target {int(target)}"} if target.ndim == 0 and target != IGNORE else {}
    return {"tokens": tokens, "activations": [_largest(values[row])], **said}
