"""Localize: finetune with a group-sparsity penalty, so that few units carry the kept subtasks."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from skilloc.intervene import losses
from skilloc.lasso.proximal import Lasso
from skilloc.lasso.settings import LocalizeConfig
from skilloc.models.copying import copied
from skilloc.models.weights import units_of
from skilloc.tasks import Subtask
from skilloc.tasks.stream import stream
from skilloc.training import History, train


def localize(
    model: Any,
    subtasks: Iterable[Subtask],
    config: LocalizeConfig,
    *,
    seed: int,
    watched: Iterable[Subtask] = (),
    checkpoints: Path | None = None,
    checkpoint_every: int = 5000,
) -> tuple[Any, History]:
    """Finetune a copy of a model on the subtasks to keep, with a penalty on the norms of its units' groups.

        loss = mean over the step's examples of the cross-entropy, in nats, + strength * penalty

    With strength 0 this is plain finetuning: the control of equal length.

    Args:
        model: a `TransformerBridge` or an `MLP`; it is left as it was.
        subtasks: what to keep: of one parity world, or texts of one length. Each weighs the same.
        config: the settings.
        seed: of the training examples and of those held out.
        watched: subtasks that are evaluated, but not trained.
        checkpoints: a folder for the state of this run: the same call goes on from there, and gives the same result.
        checkpoint_every: least number of steps between checkpoints, which are written after an evaluation.

    Returns:
        The localized model in evaluation mode, whose dead units have only zeros as weights; and the history, whose last
        row is about that model. Its columns are those of `train` (the subtasks, kept and watched, on the selection
        split) and "penalty" (with its strength, in nats), "strength", "live" (number of live units), "live.HOOK" for
        each hook, and "revivals" (how often so far a unit that was zero came back).

    Raises:
        ValueError: if there are no subtasks, two have one name, the model has no units of the kinds, or some of their
            weights are frozen; or `checkpoints` holds another run.
        FloatingPointError: if the loss is not finite, with the step.
    """
    kept, others = list(subtasks), list(watched)
    names = [subtask.name for subtask in (*kept, *others)]
    if len(set(names)) < len(names):
        raise ValueError(f"`subtasks` and `watched` have a name twice: {', '.join(names)}; give each its own name")
    finetuned = copied(model)
    units = units_of(finetuned, kinds=config.kinds)
    rule = Lasso(finetuned, units, config, [subtask.name for subtask in kept])
    device = next(finetuned.parameters()).device
    examples = stream(kept, config.each, seed=seed)
    held_out = {s.name: s.draw(config.held_out, split="selection", seed=seed).to(device) for s in (*kept, *others)}
    penalised = config.solver == "subgradient" and config.strength > 0

    def sample(step: int) -> tuple[Tensor, Tensor]:
        inputs, targets = examples(step)
        return inputs.to(device), targets.to(device)

    history = train(
        finetuned,
        sample,
        config.training,
        evaluate=held_out,
        terms={"penalty": rule.term} if penalised else {},
        rules=[rule],
        checkpoints=checkpoints,
        checkpoint_every=checkpoint_every,
        data={
            "seed": seed,
            "subtasks": {subtask.name: dict(subtask.made or {}) for subtask in kept},
            "lasso": {name: value for name, value in asdict(config).items() if name != "training"},
        },
    )
    if not penalised:
        return finetuned, history
    rule.zero()
    columns = {name: np.array(column) for name, column in history.columns.items()}
    for name, batch in held_out.items():
        columns[name][-1] = float(losses(finetuned, batch).mean())
    return finetuned, History(columns)
