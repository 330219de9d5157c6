"""Is a learned circuit more than what a search finds anywhere? Shuffled labels, other seeds, halves and inputs.

A search among thousands of units fits something in any labels. So a circuit is stated beside what the same search does
with labels that say nothing (`with_shuffled_labels`; scored on true labels, in nats, as there is no skill to take a
share of), beside itself from other seeds and references (`stability`), on facts that did not choose it (`halves`), and
by what it does and not only by what it keeps: patched alone from a counterfactual twin, does it move the answer
(`interchange`)?
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float64

from skilloc.circuits.faithfulness import Curve, faithfulness
from skilloc.experiment import Experiment
from skilloc.masks import DRAWS, Mask
from skilloc.mistakes import WrongValue
from skilloc.tasks import IGNORE, Examples


def with_shuffled_labels(experiment: Experiment, *, subtask: str, seed: int) -> Experiment:
    """Return an experiment about one subtask in which the scored targets are permuted over all rows and positions.

    The inputs, the units and the values that units are held at stay as they are.

    Raises:
        ValueError: if there is no such subtask, or an example has several rows, whose labels belong together.
    """
    own = experiment.only(subtask)
    examples = own.examples[subtask]
    if examples.owner is not None:
        raise WrongValue(
            f'`subtask` is "{subtask}", whose examples have several rows with labels that belong together; shuffle '
            "labels of a subtask with one row per example"
        )
    targets = examples.targets.clone()
    scored = targets != IGNORE
    values = targets[scored]
    targets[scored] = values[
        torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).to(values.device)
    ]
    return replace(own, subtasks={subtask: replace(examples, targets=targets)})


def halves(experiment: Experiment, *, subtask: str) -> tuple[Experiment, Experiment]:
    """Return two experiments about one subtask, one with the first half of its examples and one with the rest.

    Examples lie in the order of their documents or facts, so that the halves share at most one. A circuit that was
    learned on one and keeps the skill on the other is not about the facts that it saw.

    Raises:
        ValueError: if there is no such subtask, or a half has fewer examples than folds.
    """
    own = experiment.only(subtask)
    examples = own.folded.examples
    middle = len(examples) // 2
    parts = []
    for part in (slice(0, middle), slice(middle, len(examples))):
        rows = own.rows_of(part)
        at = own.at if isinstance(own.at, str) else own.at[rows]
        parts.append(replace(own, subtasks={subtask: examples.part(part)}, reference=own.held.part(rows), at=at))
    return parts[0], parts[1]


def stability(circuits: Sequence[Mask]) -> Float64[np.ndarray, " unit"]:
    """Return, for each unit, the share of circuits (of other seeds, references or halves) that have it.

    Raises:
        ValueError: if there are no circuits, or they are of different models.
    """
    if not circuits or any(circuit.units != circuits[0].units for circuit in circuits):
        raise WrongValue(f"`circuits` has {len(circuits)} circuits; pass at least one, all of one model")
    found: Float64[np.ndarray, " unit"] = np.stack([circuit.keep for circuit in circuits]).mean(
        axis=0, dtype=np.float64
    )
    return found


def interchange(
    experiment: Experiment, circuits: Sequence[Mask], *, subtask: str, draws: int = DRAWS, seed: int = 0
) -> Curve:
    """Measure how far a circuit alone moves the answer, when it is patched from each prompt's counterfactual twin.

    With L(P) the loss on the prompts when the units in P do what they do on the twins, `Curve.completeness` is

        moved(C) = (L(C) - L(nothing)) / (L(all) - L(nothing))

    and `Curve.faithfulness` is one minus what patching all others moves. Both stand beside random circuits. With the
    loss "logit_difference" this is how far the right answer's lead moves towards the twin's.

    Args:
        experiment: about prompts with twins, on examples that did not choose the circuits.
        circuits: of rising size.
        subtask: whose loss.
        draws: number of random circuits beside each.
        seed: of the random circuits.

    Raises:
        ValueError: if the examples have no twins, or patching everything does not raise the loss.
    """
    own = experiment.examples.get(subtask)
    if isinstance(own, Examples) and own.paired is None:
        raise WrongValue(
            f'`subtask` is "{subtask}", whose examples have no twins to patch from; use prompts with `corrupted` ones'
        )
    patched = replace(experiment.only(subtask), reference="paired")
    return faithfulness(patched, circuits, subtask=subtask, draws=draws, seed=seed)
