"""The training loop: fresh examples in, a trained model and a history out.

    loss = mean over the step's scored targets of the cross-entropy, in nats, + the sum of the named terms

or the mean over the step's examples of any other loss that has a gradient, in its unit.

Adam [Kingma & Ba 2015], AdamW [Loshchilov & Hutter 2019], SGD with momentum or Muon [Jordan et al. 2024], at a constant
rate or by a schedule, the same for all weights or by group. A step's examples
pass in blocks of rows whose activations stay in a core's cache; gradients add up over the blocks, and terms are added
once, so that the step is the same. Losses on held-out batches are measured every few hundred steps, not at every step.
Rules act on the weights after each optimiser step: they hold a mask, or take a proximal step. What a model draws
(dropout) comes from the run's seed and the step, so that a run that was stopped and goes on is the same run.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from skilloc.mistakes import WrongValue, a_seed
from skilloc.models.face import Face
from skilloc.models.half import half_of
from skilloc.models.language import digest
from skilloc.models.losses import check_model, losses_of, prepared_for
from skilloc.models.makers import face_of
from skilloc.models.points import hooks_of_users
from skilloc.store import progress as shown
from skilloc.tasks import Examples
from skilloc.tasks.losses import Loss, as_loss, cross_entropy
from skilloc.training.checkpoints import Checkpoints, recall, remember
from skilloc.training.history import History
from skilloc.training.optimisers import optimiser_of, set_rates
from skilloc.training.settings import (
    Group,
    Objective,
    Optimiser,
    Products,
    Rule,
    Sample,
    Term,
    TrainConfig,
    check,
    check_loss,
)
from skilloc.training.shards import Shards
from skilloc.training.spread import Spread, agreed, place_of, wait
from skilloc.training.step import Goal, check_finite, descent_of, goal_of, take_step

__all__ = [
    "Checkpoints",
    "Group",
    "History",
    "Objective",
    "Optimiser",
    "Products",
    "Rule",
    "Sample",
    "Spread",
    "Term",
    "TrainConfig",
    "train",
]


def train(
    model: nn.Module,
    sample: Sample,
    config: TrainConfig,
    *,
    evaluate: Mapping[str, Examples],
    loss: Loss | str | Callable[[Tensor, Examples], Tensor] | Objective = cross_entropy,
    terms: Mapping[str, Term] | None = None,
    rules: Sequence[Rule] = (),
    checkpoints: Checkpoints | None = None,
    seed: int = 0,
    progress: bool = True,
) -> History:
    """Train a model in place.

    Args:
        model: a bridge, an `MLP` or a described module; it ends in evaluation mode.
        sample: the examples of each step, for instance `parity_stream(...)`.
        config: the settings.
        evaluate: held-out examples by subtask.
        loss: a `Loss`, the name of one that is ready, or a function of (logits, examples). One that compares with the
            untouched model compares with the model as it is given. An `Objective` says more: a teacher, and what is
            measured meanwhile.
        terms: named terms that are added to the loss and logged.
        rules: act after each optimiser step, in this order.
        checkpoints: where the state of this run is kept, so that the same call goes on from there.
        seed: of what the model draws while it is trained (dropout); examples have their own.
        progress: whether to show the progress on stderr.

    Raises:
        ValueError: if a setting is out of range, the loss has no gradient, the model cannot take the examples, or
            `checkpoints` holds another run.
        FloatingPointError: if the loss is not finite, with the step.

    Example:
        >>> import skilloc as sk
        >>> subtasks = sk.parity_subtasks(4, atoms=2, k=2)
        >>> model = sk.MLP(6, 2, width=8, depth=3)
        >>> sample = sk.tasks.stream(subtasks.values(), 32, seed=0)
        >>> held_out = {name: subtask.draw(100) for name, subtask in subtasks.items()}
        >>> history = sk.train(model, sample, sk.TrainConfig(steps=50, rate=1e-2), evaluate=held_out, progress=False)
        >>> int(history.of("step")[-1])
        50
    """
    a_seed("seed", seed)
    terms, aim = terms or {}, loss if isinstance(loss, Objective) else Objective(as_loss(loss))
    loss = aim.measured or aim.loss
    check(config, evaluate, terms)
    check_loss(aim.loss, kept=checkpoints is not None)
    if seed < 0:
        raise WrongValue(f"`seed` is {seed}; use 0 or more")
    if half_of(model) is not None:
        raise WrongValue(
            "`model` keeps its weights in half precision and cannot be trained; open it without `weights` (--weights)"
        )
    face = face_of(model)
    goal = goal_of(face, aim, seed=seed)
    watched = _prepared(face, evaluate, goal, loss)
    optimiser = optimiser_of(model.named_parameters(), config)
    spec = {
        **_spec(model, config, evaluate, aim, seed),
        **({"behaviour": _evaluated(face, watched, loss)} if checkpoints and not _named(model, loss) else {}),
        "data": {} if checkpoints is None else dict(checkpoints.data),
        "terms": list(terms),
        "rules": [type(rule).__name__ for rule in rules],
    }
    rows, seen = recall(None if checkpoints is None else checkpoints.folder, spec, model, optimiser, rules)
    shards = None
    if config.spread.way == "sharded":
        optimiser = shards = Shards(face, optimiser, config, always=bool(rules or terms))
    own = face if shards is None else shards.face
    descent, first = (
        descent_of(own, goal, products=config.products, spread=config.spread),
        place_of(config.spread)[0] == 0,
    )
    start = kept = int(rows[-1]["step"]) if rows else 0
    for module in {model, own.module}:
        module.train()
    try:
        left = range(start, config.steps)
        for step in shown.progress(left, "training", initial=start, shown=progress and first):
            if step == 0:
                rows.append(agreed({"step": 0.0, "examples": 0.0, **_evaluated(face, watched, loss)}, config.spread))
            set_rates(optimiser, step, config)
            found, count = take_step(model, optimiser, step, sample(step), descent, terms)
            seen += count
            for rule in rules:
                rule.after_step(optimiser)
            check_finite(found, step, config)
            if step == 0:
                rows[0].update(found)
                _hear(rules, rows[0])
                for name in set(config.until) - set(rows[0]):
                    raise WrongValue(f'`until` names "{name}", which is not evaluated; add its batch to `evaluate`')
            done = step + 1
            if done == config.steps or _is_due(done, config):
                if shards is not None and not shards.always:
                    shards.gather()
                row = {"step": float(done), "examples": float(seen), **_evaluated(face, watched, loss), **found}
                rows.append(agreed(row, config.spread))
                _hear(rules, rows[-1])
                if config.until and all(rows[-1][name] < value for name, value in config.until.items()):
                    break
                if checkpoints is not None and (done - kept >= checkpoints.every or done == config.steps):
                    kept = done
                    if first:
                        remember(checkpoints.folder, spec, model, optimiser, rules, rows)
                    wait(config.spread)
    finally:
        model.eval()
        optimiser.zero_grad()
    return History({name: np.array([row[name] for row in rows]) for name in rows[0]}, loss.unit)


def _spec(
    model: nn.Module, config: TrainConfig, evaluate: Mapping[str, Examples], aim: Objective, seed: int
) -> dict[str, Any]:
    """Return what names a run besides what the caller says about its examples. JSON only."""
    hooks = hooks_of_users(model)
    return {
        "what": "checkpoint",
        "model": digest(model),
        "config": config.record(),
        "evaluate": {name: batch.digest for name, batch in evaluate.items()},
        "loss": aim.loss.record() if aim == Objective(aim.loss) else aim.record(),
        **({} if aim.teacher is None else {"teacher": digest(aim.teacher)}),
        "seed": seed,
        **({"hooks": list(hooks)} if hooks else {}),
    }


def _named(model: nn.Module, loss: Loss) -> bool:
    """Whether names alone say what a model computes and its loss measures."""
    return loss.ready and not hooks_of_users(model)


def _is_due(step: int, config: TrainConfig) -> bool:
    return step in config.evaluate_at if config.evaluate_at else step % config.evaluate_every == 0


def _hear(rules: Sequence[Rule], row: dict[str, float]) -> None:
    for rule in rules:
        row.update(rule.after_evaluation(row))


Watched = Mapping[str, tuple[Examples, Tensor | None]]
"""Examples, and what the loss knows about them, by subtask."""


def _prepared(face: Face, evaluate: Mapping[str, Examples], goal: Goal, loss: Loss) -> Watched:
    """Refuse examples that the model cannot take; return them with what the loss must know of the untouched model."""
    face.module.eval()
    for batch in evaluate.values():
        check_model(face.module, batch)
    untouched = goal.untouched or face
    return {name: (batch, prepared_for(untouched, batch, loss)) for name, batch in evaluate.items()}


def _evaluated(face: Face, watched: Watched, loss: Loss) -> dict[str, float]:
    face.module.eval()
    return {name: float(losses_of(face, batch, loss, known).mean()) for name, (batch, known) in watched.items()}
