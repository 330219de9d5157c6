"""Cross-fitting where a set of prompts is small: its thirds take each other's place, so that all of it is reported."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from skilloc.ablation import ablation_effects
from skilloc.effects import Effects
from skilloc.experiment import Experiment
from skilloc.mistakes import WrongValue
from skilloc.models.language import Opened
from skilloc.study.draws import experiment_of, subtasks_of
from skilloc.study.settings import Settings
from skilloc.tasks.asked import Asked
from skilloc.tasks.items import LARGE

ROTATIONS = 3
"""Thirds of a small set."""


def rotated_effects(
    opened: Opened,
    sources: Mapping[str, str],
    settings: Settings,
    asked: Asked,
    *,
    measure: Callable[[Experiment], Effects] = ablation_effects,
) -> Effects:
    """Measure the effects of units on small sets of prompts, each third of them once.

    effect[f, s, u] of rotation r = mean over fold f of the items that are in `settings.split` under rotation r; the
    folds of the three rotations follow each other, so that a mean over folds is one over the rotations. Items about one
    subject are in one fold's rotation only, and what is chosen by the folds of two rotations is stated on the third.

    Args:
        opened: the model and its tokenizer.
        sources: of each subtask, as for `subtasks_of`.
        settings: how to measure; `sequences` and `folds` are those of one rotation.
        asked: which fields say what.
        measure: what is measured in each rotation.

    Raises:
        ValueError: if `asked` names no prompt, or a set is so large that its splits do not turn.

    Example:
        >>> import json, pathlib, tempfile
        >>> import skilloc as sk
        >>> from skilloc.study.settings import Settings
        >>> rows = [{"prompt": f"x{i} = {i}; print(", "answer": f"x{i}"} for i in range(12)]
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "small.jsonl"
        >>> _ = path.write_text("\\n".join(map(json.dumps, rows)))
        >>> settings = Settings(units=("head",), loss="answer", sequences=4, folds=2)
        >>> opened, asked = sk.open_model("embedded"), sk.Asked(prompt="prompt")
        >>> sources, measure = {"small": str(path)}, sk.attribution_effects
        >>> rotated_effects(opened, sources, settings, asked, measure=measure).values.shape[:2]
        (6, 1)
    """
    if asked.prompt is None:
        raise WrongValue("`asked` names no `prompt`, and only prompts with answers have thirds that turn")
    found = []
    for rotation in range(ROTATIONS):
        subtasks = subtasks_of(
            opened, sources, length=settings.length, asked=replace(asked, rotation=rotation), least=settings.sequences
        )
        for name, own in subtasks.items():
            made: dict[str, Any] = dict(own.made or {})
            count = sum(made["items"].values())
            if count >= LARGE:
                raise WrongValue(f'"{name}" has {count} items, of which the splits do not turn; measure them once')
        found.append(measure(experiment_of(opened, subtasks, settings)))
    return _side_by_side(found)


def _side_by_side(parts: list[Effects]) -> Effects:
    first = parts[0]
    tokens = {
        name: hashlib.sha256("".join(part.made["tokens"][name] for part in parts).encode()).hexdigest()[:16]
        for name in first.subtasks
    }
    return replace(
        first,
        values=np.concatenate([part.values for part in parts]),
        baseline=np.concatenate([part.baseline for part in parts]),
        exact=np.all([part.exact for part in parts], axis=0),
        made={**first.made, "tokens": tokens, "rotations": [dict(part.made) for part in parts]},
    )
