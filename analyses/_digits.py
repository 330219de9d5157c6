"""Networks on handwritten digits: one that knows all ten, and small ones that are to know the even ones."""

import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from _parity import weights_of, with_weights
from skilloc import store
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment
from skilloc.lasso import LocalizeConfig
from skilloc.lasso.proximal import Lasso
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.pruning import masks_of, prune
from skilloc.store import Labelled
from skilloc.sweep.settings import settings_of
from skilloc.tasks import Subtask, digit_subtasks, stream
from skilloc.tasks.digits import EVEN
from skilloc.tasks.losses import cross_entropy, distillation, mistake
from skilloc.training import History, TrainConfig, train
from skilloc.training.settings import Objective

Method = Literal["group lasso", "attribution", "random", "distillation", "pruned, distilled", "scratch"]
SCORED = 512
"""Training examples by which units are attributed; they count."""


@dataclass(frozen=True)
class LargeNetwork:
    """The spec of a network of two hidden layers that learns all ten digits."""

    width: int = 400
    """neurons per hidden layer"""
    small: bool = False
    """8 x 8 pixels"""
    steps: int = 2200
    """of Adam"""
    examples: int = 64
    """per step"""
    rate: float = 1e-3
    """of Adam"""
    weight_decay: float = 1e-4
    """of Adam"""
    seed: int = 0
    """of weights and of the order of the images"""


@dataclass(frozen=True)
class NarrowNetwork:
    """The spec of one run: from a large network, or from nothing, to a small one that knows the even digits."""

    network: str
    """key of a large network among the results"""
    method: Method
    """group lasso: the large network is trained with the penalty until so many neurons live, and then without;
    attribution and random: pruned in one go, then trained; pruned, distilled: the same by attribution, then taught by
    the large network; distillation and scratch: fresh weights"""
    kept: int
    """hidden neurons, both layers together"""
    rate: float = 1e-3
    """of Adam"""
    examples: int = 16
    """per step"""
    strength: float = 1e-3
    """first strength of the penalty, in nats"""
    temperature: float = 20.0
    """of the teacher"""
    soft: float = 0.9
    """share of the loss that comes from the teacher"""
    split: Literal["selection", "report"] = "report"
    """on which the threshold is asked for"""
    threshold: float = 0.965
    """accuracy on even digits at which a run has arrived"""
    most: int = 40_000
    """examples after which a run has failed"""
    every: int = 512
    """examples between two looks"""
    seed: int = 0
    """of fresh weights, random masks and the order of the images"""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f'unknown `method` "{self.method}"; use one of {", ".join(get_args(Method))}')
        if self.every % self.examples:
            raise ValueError(f"`every` is {self.every}; use a multiple of `examples`, {self.examples}")


def train_large(settings: LargeNetwork) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Train a network on all ten digits.

    Returns:
        Its accuracies on the report split, on all digits and on the even ones, and CPU seconds; and the weights.
    """
    began = time.process_time()
    world = digit_subtasks({"all": range(10), "even": EVEN}, small=settings.small)
    model = _network(settings)
    config = TrainConfig(
        settings.steps, settings.rate, weight_decay=settings.weight_decay, evaluate_every=settings.steps
    )
    sample = stream([world["all"]], settings.examples, seed=settings.seed, pool=_count(world["all"], "train"))
    report = {name: one.draw(_count(one, "report")) for name, one in world.items()}
    history = train(model, sample, config, evaluate=report, loss=Objective(cross_entropy, mistake), progress=False)
    accuracies = {name: 1 - float(history.of(name)[-1]) for name in report}
    return {"accuracies": accuracies, "seconds": time.process_time() - began}, weights_of(model)


def narrow(settings: NarrowNetwork, results: Path) -> dict[str, Any]:
    """Make a small network for the even digits by one method, and count what that takes.

    Args:
        settings: the run.
        results: folder that holds the large network.

    Returns:
        `examples` that were seen until the accuracy on the split was reached, with those by which units were scored;
        whether it was `reached`; `steps`, CPU `seconds` and those of them that were spent on scoring; the `accuracy`
        in the end on both splits; the number of neurons `kept`; and the `path` of (examples, accuracy, live neurons).
    """
    stored = store.read(results / settings.network)
    names = {field.name for field in fields(LargeNetwork)}
    made = settings_of(LargeNetwork, {name: value for name, value in stored.spec.items() if name in names})
    large = with_weights(_network(made), stored.arrays)
    even = digit_subtasks({"even": EVEN}, small=made.small)["even"]
    began = time.process_time()
    model, scored = _start(settings, large, even)
    scoring = time.process_time() - began
    lasso = settings.method == "group lasso"
    objective = _objective(settings, large)
    config = TrainConfig(
        settings.most // settings.examples,
        settings.rate,
        evaluate_every=settings.every // settings.examples,
        clip=1.0,
        until={settings.split: 1 - settings.threshold + 1e-9, **({"live": settings.kept + 0.5} if lasso else {})},
    )
    rules = []
    if lasso:
        wanted = LocalizeConfig(config, strength=settings.strength, wanted_live=settings.kept)
        rules.append(Lasso(model, units_of(model), wanted, ["selection"]))
    history = train(
        model,
        stream([even], settings.examples, seed=settings.seed, pool=_count(even, "train")),
        config,
        evaluate={split: even.draw(_count(even, split), split=split) for split in ("selection", "report")},
        loss=objective,
        rules=rules,
        progress=False,
    )
    return {
        **_arrived(settings, history, scored),
        "seconds": time.process_time() - began,
        "scoring": scoring,
        "kept": int(history.of("live")[-1]) if lasso else len(units_of(model)),
    }


def _arrived(settings: NarrowNetwork, history: History, scored: int) -> dict[str, Any]:
    live = history.of("live") if settings.method == "group lasso" else np.full(len(history.of("step")), settings.kept)
    right = 1 - history.of(settings.split)
    reached = bool(right[-1] >= settings.threshold - 1e-9 and live[-1] <= settings.kept)
    seen = history.of("examples") + scored
    return {
        "reached": reached,
        "examples": int(seen[-1]),
        "steps": int(history.of("step")[-1]),
        "accuracy": {split: 1 - float(history.of(split)[-1]) for split in ("selection", "report")},
        "path": [[int(a), round(float(b), 5), int(c)] for a, b, c in zip(seen, right, live, strict=True)],
    }


def _start(settings: NarrowNetwork, large: MLP, even: Subtask) -> tuple[Any, int]:
    """The network that is trained, and how many examples it took to score units."""
    if settings.method == "group lasso":
        return large_copy(large), 0
    if settings.method in ("scratch", "distillation"):
        widths = [settings.kept // 2, settings.kept - settings.kept // 2]
        return MLP(large.cfg.d_in, large.cfg.d_out, widths, 3, seed=settings.seed), 0
    units = units_of(large)
    if settings.method == "random":
        scores, scored = np.random.default_rng(settings.seed).random(len(units)), 0
    else:
        scored = min(SCORED, _count(even, "train"))
        examples = even.draw(scored, split="train", seed=settings.seed)
        scores = attribution_effects(Experiment(large, {"even": examples}, folds=1), seed=settings.seed).mean("even")
    return prune(large, masks_of(units, scores, [settings.kept], per_layer=True)[0]), scored


def large_copy(large: MLP) -> Any:
    """Return a copy of the large network that can be trained."""
    return with_weights(MLP(large.cfg.d_in, large.cfg.d_out, large.cfg.widths, 3), weights_of(large))


def _objective(settings: NarrowNetwork, large: MLP) -> Objective:
    if "distil" not in settings.method:
        return Objective(cross_entropy, mistake)
    return Objective(distillation(settings.temperature, settings.soft), mistake, large)


def _network(settings: LargeNetwork) -> MLP:
    return MLP(64 if settings.small else 784, 10, settings.width, 3, seed=settings.seed)


def _count(subtask: Subtask, split: str) -> int:
    images: Any = (subtask.made or {})["images"]
    return int(images[split])


Settings = Callable[[np.random.Generator], dict[str, Any]]


def _teacher(rng: np.random.Generator) -> dict[str, Any]:
    return {"temperature": float(rng.choice([2.0, 5.0, 20.0])), "soft": float(rng.choice([0.5, 0.9, 1.0]))}


SPACES: dict[Method, Settings] = {
    "group lasso": lambda rng: {"strength": float(10 ** rng.uniform(-3, -1.5))},
    "attribution": lambda rng: {},
    "random": lambda rng: {},
    "distillation": _teacher,
    "pruned, distilled": _teacher,
    "scratch": lambda rng: {},
}
"""What a method has to tune besides the rate and the batch, which all have."""


def settings_for(method: Method, count: int, *, seed: int = 0) -> list[dict[str, Any]]:
    """Draw settings of a method: a rate, a batch, and what it has of its own.

    The rates and batches are the same for all methods: rate 10^-3.5 to 10^-1.8, evenly on a logarithmic scale with a
    shift per setting, batch 16 or 64 in turn.

    Args:
        method: whose settings.
        count: how many.
        seed: of the draws.
    """
    rates = np.random.default_rng([seed, 0])
    own = np.random.default_rng([seed, 1])
    exponents = np.linspace(-3.5, -1.8, count) + rates.uniform(-0.1, 0.1, count)
    order = rates.permutation(count)
    return [
        {"rate": float(10 ** exponents[i]), "examples": (16, 64)[place % 2], **SPACES[method](own)}
        for place, i in enumerate(order)
    ]
