"""Localize: finetune with a group-sparsity penalty, so that few units carry the kept subtasks."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from torch import nn

from skilloc.lasso.proximal import Lasso
from skilloc.lasso.settings import LocalizeConfig
from skilloc.mistakes import WrongValue, a_seed
from skilloc.models.losses import losses_of, prepared_for
from skilloc.models.makers import face_of, units_of
from skilloc.tasks import Examples, Subtask, as_subtasks
from skilloc.tasks.streams import stream
from skilloc.training import Checkpoints, History, train
from skilloc.training.settings import Objective, check_loss
from skilloc.training.step import goal_of


def localize(
    model: nn.Module,
    subtasks: Mapping[str, Subtask] | Iterable[Subtask],
    config: LocalizeConfig,
    *,
    seed: int,
    watched: Mapping[str, Subtask] | Iterable[Subtask] = (),
    checkpoints: Checkpoints | None = None,
) -> tuple[nn.Module, History]:
    """Finetune a copy of a model on the subtasks to keep, with a penalty on the norms of its units' groups.

        loss = mean over the step's examples of `config.loss` (cross-entropy in nats) + strength * penalty

    With strength 0 this is plain finetuning: the control of equal length.

    Args:
        model: a bridge, an `MLP` or a described module; it is left as it was.
        subtasks: what to keep: of one parity world, texts of one length, or of one kind of input. Each weighs the same.
        config: the settings.
        seed: of the training examples, of those held out, and of what the model draws (dropout).
        watched: subtasks that are evaluated, but not trained.
        checkpoints: where the state of this run is kept, so that the same call goes on from there; its `data` are
            filled in.

    Returns:
        The localized model in evaluation mode, whose dead units have only zeros as weights; and the history, whose last
        row is about that model. Its columns are those of `train` (the subtasks, kept and watched, on the selection
        split) and "penalty" (times its strength, in the loss's unit), "strength", "live" (number of live units),
        "live.HOOK" for each bank, and "revivals" (how often so far a unit that was zero came back).

    Raises:
        ValueError: before any work: if there are no subtasks, two have one name, the model has no units of the kinds,
            these have no weights of their own or frozen ones, the loss has no gradient, the model cannot take the
            examples, or `checkpoints` holds another run.
        FloatingPointError: if the loss is not finite, with the step.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> training = sk.TrainConfig(steps=20, evaluate_every=10)
        >>> config = sk.LocalizeConfig(training, strength=1e-3, examples=32, held_out=64)
        >>> localized, history = sk.localize(model, [subtasks["parity_0"]], config, seed=0)
        >>> int(history.of("live")[-1])
        16
    """
    a_seed("seed", seed)
    kept, others = as_subtasks(subtasks, "subtasks"), as_subtasks(watched, "watched")
    names = [subtask.name for subtask in (*kept, *others)]
    if len(set(names)) < len(names):
        raise WrongValue(f"`subtasks` and `watched` have a name twice: {', '.join(names)}; give each its own name")
    loss = config.metric
    check_loss(loss, kept=checkpoints is not None)
    finetuned = face_of(model).copy()
    rule = Lasso(finetuned, units_of(finetuned, kinds=config.kinds), config, [subtask.name for subtask in kept])
    device = next(finetuned.parameters()).device
    examples = stream(kept, config.examples, seed=seed)
    held_out = {s.name: s.draw(config.held_out, split="selection", seed=seed).to(device) for s in (*kept, *others)}
    data = {
        "seed": seed,
        "subtasks": {subtask.name: dict(subtask.made or {}) for subtask in kept},
        "lasso": config.record(),
    }
    penalised = config.solver == "subgradient" and config.strength > 0
    history = train(
        finetuned,
        lambda step: examples(step).to(device),
        config.training,
        evaluate=held_out,
        loss=loss,
        terms={"penalty": rule.term} if penalised else {},
        rules=[rule],
        checkpoints=None if checkpoints is None else replace(checkpoints, data=data),
        seed=seed,
    )
    if penalised:
        rule.zero()
        history = _restated(history, model, finetuned, held_out, config)
    return finetuned, history


def _restated(
    history: History, model: nn.Module, finetuned: nn.Module, held_out: dict[str, Examples], config: LocalizeConfig
) -> History:
    """Return a history whose last row has the losses of the model as it is now."""
    face, loss = face_of(finetuned), config.metric
    untouched = goal_of(face_of(model), Objective(loss), seed=0).untouched or face
    columns = {name: np.array(column) for name, column in history.columns.items()}
    for name, batch in held_out.items():
        columns[name][-1] = float(losses_of(face, batch, loss, prepared_for(untouched, batch, loss)).mean())
    return History(columns, history.unit)
