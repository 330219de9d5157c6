"""What a circuit does on a few prompts, and which tokens its neurons push: plain data for the page."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skilloc import store
from skilloc.circuits.graph import EXAMPLES, SHOWN
from skilloc.experiment import Experiment, read_activations
from skilloc.mistakes import whole
from skilloc.study.attention import Patterns, patterns_of, percents
from skilloc.study.examples import last_place, of_unit, top_examples
from skilloc.tasks import IGNORE, Examples
from skilloc.units import HEAD, NEURON, Bank, Units

Decode = Callable[[int], str]
ANSWER = 8
"""Tokens of an answer at most; where more are scored, the example is running text."""


def write_shown(
    folder: Path, experiment: Experiment, names: Sequence[str], tokenizer: Any
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write what the page shows of some units beside its circuits: their top examples, and what they do on prompts.

    Args:
        folder: where the circuits lie.
        experiment: the model, its units and the examples.
        names: of the units, such as the nodes of the circuits.
        tokenizer: of the model; None where it reads no text.

    Returns:
        The examples, by unit, and under "prompts" and "pushes" what `on_prompts` and `pushed_tokens` return.
    """
    decode = None if tokenizer is None else lambda token: str(tokenizer.decode([token]))
    examples = top_examples(experiment, names, decode=decode)
    shown = {
        "prompts": on_prompts(experiment, names, decode=decode),
        "pushes": pushed_tokens(experiment, names, decode=decode) if decode is not None else {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    store.write_json(folder / EXAMPLES, examples)
    store.write_json(folder / SHOWN, shown)
    return examples, shown


def on_prompts(
    experiment: Experiment, names: Iterable[str], *, decode: Decode | None = None, n: int = 3, length: int = 32
) -> list[dict[str, Any]]:
    """Return the activations of some units on the first prompts of each subtask.

    The activation is that of `top_examples`. Of running text the last tokens are shown.

    Args:
        experiment: the model, its units and the examples.
        names: of the units, such as the nodes of a circuit; names that are no unit are left out.
        decode: the text of a token id; the id in decimals if not given.
        n: prompts per subtask.
        length: tokens of a prompt at most, the last ones up to the last that is scored.

    Returns:
        For each prompt a record: "subtask"; "tokens"; "asked", the place of the token after which the answer begins;
        "answer", the text that is right; "activations", by unit, one per token or a single one; "attention", by head,
        whole percents from each token to those up to itself. Inputs that are no tokens are one prompt of their values.
    """
    whole("n", n)
    whole("length", length)
    banks = _banks(experiment, names)
    if not banks:
        return []
    read = Units(tuple(last_place(bank) for bank, _ in banks))
    found = []
    for subtask, given in experiment.examples.items():
        examples = given.part(slice(0, min(n, len(given)))).to(experiment.device)
        activations = read_activations(experiment.model, examples, read)
        patterns = patterns_of(experiment, examples, [bank for bank, _ in banks])
        for row in _first_rows(examples):
            found.append({"subtask": subtask, **_asked(examples, row, decode, length)})
            span = slice(found[-1].pop("first"), found[-1].pop("end"))
            per_bank = [(bank, own, activations[last_place(bank).places[0]][row : row + 1]) for bank, own in banks]
            found[-1]["activations"] = _activations(per_bank, examples, span)
            found[-1]["attention"] = _attention(banks, patterns(row), span)
    return found


def pushed_tokens(
    experiment: Experiment, names: Iterable[str], *, decode: Decode, n: int = 5
) -> dict[str, dict[str, list[str]]]:
    """Return, for each named neuron, the tokens that it makes likelier by itself where it is positive, and less likely.

    That is what its output weights add to the logits, through the final norm and the unembedding alone.

    Args:
        experiment: the model and its units.
        names: of the units; those that are no neurons of a transformer are left out.
        decode: the text of a token id.
        n: tokens on either side.

    Returns:
        By neuron, "up" and "down": texts of tokens, the strongest first.
    """
    found = {}
    for bank, own in _banks(experiment, names):
        if bank.kind != NEURON or not experiment.face.stream:
            continue
        positions = [position for _, position in own]
        pushes = experiment.face.pushes(experiment.face.write(bank.name).detach()[positions])
        for (name, _), row in zip(own, () if pushes is None else pushes, strict=pushes is not None):
            order = torch.argsort(row, descending=True, stable=True).tolist()
            found[name] = {"up": [decode(i) for i in order[:n]], "down": [decode(i) for i in order[: -n - 1 : -1]]}
    return found


def _banks(experiment: Experiment, names: Iterable[str]) -> list[tuple[Bank, list[tuple[str, int]]]]:
    """Return the banks of some units, with the names and positions of theirs."""
    units, wanted = experiment.units, set(names)
    found: dict[str, list[tuple[str, int]]] = {}
    for unit, name in enumerate(units.names):
        if name in wanted:
            hook, position = units.locate(unit)
            found.setdefault(hook, []).append((name, position))
    return [(units.bank(hook), own) for hook, own in found.items()]


def _first_rows(examples: Examples) -> list[int]:
    """Return the first row of each example."""
    return [examples.rows_of(slice(e, e + 1)).start for e in range(len(examples))]


def _asked(examples: Examples, row: int, decode: Decode | None, length: int) -> dict[str, Any]:
    """Return the text of one row, where in it the answer begins, and what is shown of it."""
    say = decode or str
    target = examples.targets[row]
    if examples.tokens is None:
        values = examples.first[row].flatten().tolist()
        said = [f"{value:.3g} " for value in values] if len(values) <= 4 * length else [f"example {row} "]
        answer = str(int(target)) if target.ndim == 0 and target != IGNORE else ""
        return {"tokens": said, "asked": len(said) - 1, "answer": answer, "first": 0, "end": 1}
    mask = examples.mask
    real = (torch.ones_like(examples.tokens[row]) if mask is None else mask[row]).nonzero()[:, 0]
    scored = (target != IGNORE).nonzero()[:, 0].tolist() if target.ndim else [int(real[-1])]
    end = scored[-1] + 1
    first = max(int(real[0]), end - length)
    text = len(scored) > ANSWER
    asked = scored[-1] if text else scored[0]
    right = scored[-1:] if text else scored
    answer = "".join(say(int(target[place])) for place in right) if target.ndim else ""
    tokens = [say(i) for i in examples.tokens[row, first:end].tolist()]
    return {"tokens": tokens, "asked": max(0, asked - first), "answer": answer, "first": first, "end": end}


def _activations(
    per_bank: Sequence[tuple[Bank, Sequence[tuple[str, int]], Tensor]], examples: Examples, span: slice
) -> dict[str, list[float]]:
    found = {}
    for bank, own, values in per_bank:
        for name, position in own:
            one = of_unit(values, last_place(bank), position)[0]
            per_token = examples.tokens is not None and one.shape == examples.tokens.shape[1:]
            shown = one[span] if per_token else one.flatten()[one.flatten().abs().argmax()][None]
            found[name] = [float(f"{value:.3g}") for value in shown.tolist()]
    return found


def _attention(
    banks: Sequence[tuple[Bank, Sequence[tuple[str, int]]]], patterns: Patterns, span: slice
) -> dict[str, list[list[int]]]:
    return {
        name: percents(patterns[bank.name][position], span)
        for bank, own in banks
        if bank.kind == HEAD and bank.name in patterns
        for name, position in own
    }
