"""Circuits that are learned for a study: on the train split, of a wanted size, or small enough to keep a share."""

from collections.abc import Sequence
from dataclasses import replace

from skilloc.circuits.choosing import LEAST, on_train, same_mean
from skilloc.circuits.faithfulness import smallest
from skilloc.circuits.gates import GateConfig, learn_circuit
from skilloc.experiment import Experiment
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue

TOKENS = 512
"""Tokens of a step of learning; of a model without positions, examples."""

STEPS_APART, MOST = 32, 4096
"""Examples that gates are learned on: those of so many steps, and at most so many."""

WIDER = 4
"""A learned circuit of some size comes from one of so many times as many units."""


def learned_circuits(
    chosen_on: Experiment,
    *,
    subtask: str,
    size: int | None,
    share: float | None,
    others: Sequence[int] = (),
    seed: int = 0,
) -> tuple[Mask, list[Mask]]:
    """Learn the circuit of a subtask; return it, and those of other sizes.

    Gates are learned on the train split, on as many examples as `STEPS_APART` steps take, or as the split has. A size
    that keeps a share is chosen on the study's own examples, or, of a study of the train split, on the report split.

    Args:
        chosen_on: the experiment of the study.
        subtask: whose loss.
        size: number of units.
        share: of the skill that the circuit is to keep, instead.
        others: other sizes.
        seed: of the order of the examples.

    Raises:
        ValueError: if the loss has no gradient, a size is beyond the number of units, or no size keeps the share.
    """
    units = len(chosen_on.units)
    if size is not None and size > units:
        raise WrongValue(f"`count` is {size} but there are {units} units; choose 1 to {units}")
    own = same_mean(chosen_on)
    positions = chosen_on.examples[subtask].positions
    batch = max(LEAST, TOKENS // positions)
    train = on_train(own, min(MOST, STEPS_APART * batch))
    config = GateConfig(sizes=_sizes(units, size, others), share=share, batch=batch, checked=4 * batch)
    learned = learn_circuit(train, config, subtask=subtask, seed=seed)
    if share is None:
        assert size is not None
        return learned.mask(size), learned.masks
    asked = replace(own, split="report") if own.split == "train" else own
    return smallest(asked, learned.masks, share, subtask=subtask), learned.masks


def _sizes(units: int, size: int | None, others: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes along the path: down to the wanted one by steps of `WIDER`, or by halves while a share holds."""
    if size is None:
        halves = {max(1, units >> k) for k in range(1, units.bit_length())}
        thirds = {max(1, (3 * units) >> (k + 2)) for k in range(units.bit_length())}
        return tuple(sorted({*halves, *thirds, *others}))
    found, wider = {size, *others}, size * WIDER
    while wider <= units // 2:
        found.add(wider)
        wider *= WIDER
    return tuple(sorted(found))
