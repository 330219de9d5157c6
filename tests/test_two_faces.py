"""The same network given as `MLP` and through `describe`: equal numbers from every public measurement."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import skilloc as sk
from skilloc.ablation.removal import pair_interactions
from skilloc.attribution import integrated_gradients_effects
from skilloc.lasso import group_norms
from skilloc.models.mlp import MLP

SUBTASKS = sk.parity_subtasks(6, atoms=2, k=2, composites=[(0, 1)])
GIVEN = {name: subtask.draw(96) for name, subtask in SUBTASKS.items()}
WIDTH = 10
HOOKS = ("layers.0.hook_post", "layers.1.hook_post")


def fresh() -> tuple[nn.Module, nn.Module]:
    """The same weights, once by their own maker and once described."""
    network = MLP(8, 2, WIDTH, 3, seed=1)
    linears = [nn.Linear(len(part.weight.T), len(part.weight)) for part in (*network.layers, network.out)]
    for mine, theirs in zip(linears, (*network.layers, network.out), strict=True):
        mine.weight.data, mine.bias.data = theirs.weight.detach().clone(), theirs.bias.detach().clone()
    module = nn.Sequential(linears[0], nn.ReLU(), linears[1], nn.ReLU(), linears[2]).eval()
    units = {
        HOOKS[0]: sk.At("1", weights={"0.weight": 0, "0.bias": 0, "2.weight": 1}),
        HOOKS[1]: sk.At("3", weights={"2.weight": 0, "2.bias": 0, "4.weight": 1}),
    }
    return network, sk.describe(module, units, example=torch.zeros(1, 8))


def experiment(model: nn.Module, **settings: Any) -> sk.Experiment:
    return sk.Experiment(model, GIVEN, folds=6, **settings)


def mask(model: nn.Module, share: float = 0.5) -> sk.Mask:
    units = sk.units_of(model)
    return sk.Mask(units, np.random.default_rng(0).random(len(units)) < share)


def effects(model: nn.Module) -> sk.Effects:
    return sk.ablation_effects(experiment(model))


def interactions(model: nn.Module) -> np.ndarray:
    found = pair_interactions(experiment(model), effects(model), subtask="parity_0", count=4)
    return np.asarray(found.scores.value)


def removal(model: nn.Module) -> np.ndarray:
    return np.asarray(sk.removal_effects(experiment(model), effects(model), sizes=(2, 5), draws=3).values)


def calibration(model: nn.Module) -> list[float]:
    estimate, exact = sk.attribution_effects(experiment(model), curvature=0), effects(model)
    found = sk.calibrate(estimate, exact, drawn=np.ones(len(exact.units), dtype=bool))
    return [score for one in found.values() for score in (one.pearson.value, one.spearman.value)]


def again(model: nn.Module) -> np.ndarray:
    return np.asarray(sk.pruning.effects_again(experiment(model), sk.ablation_effects)(mask(model)))


def trained(model: nn.Module) -> list[np.ndarray]:
    draw = sk.tasks.parity_stream(SUBTASKS.values(), 32, seed=0)
    history = sk.train(model, draw, sk.TrainConfig(steps=20, rate=1e-2), evaluate=GIVEN)
    return [history.of(name) for name in GIVEN]


def localized(model: nn.Module) -> list[np.ndarray]:
    training = sk.TrainConfig(steps=20, rate=1e-2, evaluate_every=20)
    config = sk.LocalizeConfig(training=training, strength=3e-3, examples=32, held_out=64)
    narrow, history = sk.localize(model, [SUBTASKS["parity_0"]], config, seed=0)
    return [group_norms(narrow, sk.units_of(narrow)), history.of("parity_0")]


def table(model: nn.Module) -> Any:
    found = sk.locality.table(effects(model).values, tuple(GIVEN))
    return [score.value for row in found.values() for score in row.values()]


def kept(model: nn.Module) -> list[np.ndarray]:
    found = sk.circuits.faithfulness(experiment(model), [mask(model, 0.3)], subtask="composite_01")
    return [found.floor, found.circuit, found.rest, found.random]


def curve(model: nn.Module) -> np.ndarray:
    own = experiment(model)
    masks = sk.pruning.masks_of(own.units, effects(model).mean("parity_0"), [4, 9])
    return sk.pruning.mask_curve(own, masks).losses


def recovered(model: nn.Module) -> list[np.ndarray]:
    draw = sk.tasks.parity_stream(SUBTASKS.values(), 32, seed=0)
    found = sk.pruning.recover(
        experiment(model), [mask(model), mask(model, 0.8)], draw, sk.TrainConfig(steps=10, rate=1e-2)
    )
    return [found.losses, found.accuracies]


def probed(model: nn.Module) -> np.ndarray:
    smaller = sk.prune(model, mask(model))
    grid = sk.relearning.Grid(
        rates=(1e-2,), budgets=(1, 4), examples=16, held_out=64, folds=4, repair=0, ways=sk.relearning.PLAIN_WAYS
    )
    models = {**sk.relearning.relearn_controls(model, smaller, seeds=(0, 1)), "pruned": smaller}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a grid as small as this
        found = sk.relearn_probe(models, [SUBTASKS["parity_1"]], SUBTASKS["parity_1"], grid, (0, 1))
    return np.asarray(found.report)


def edges(model: nn.Module) -> np.ndarray:
    """Those between neurons: a described module names no inputs, and its outputs are one."""
    found = sk.circuits.edge_effects(experiment(model), mask(model).keep, paths="total")
    between = [i for i, node in enumerate(found.nodes) if node.kind == "neuron"]
    return found.values[:, :, between][..., between]


MEASUREMENTS: dict[str, Callable[[nn.Module], Any]] = {
    "ablation": lambda model: effects(model).values,
    "ablation, mean": lambda model: sk.ablation_effects(experiment(model, reference="mean")).values,
    "ablation, resample": lambda model: sk.ablation_effects(experiment(model, reference="resample")).values,
    "ablation, error": lambda model: sk.ablation_effects(experiment(model, loss="error")).values,
    "ablation, kl": lambda model: sk.ablation_effects(experiment(model, loss="kl")).values,
    "joint removal": lambda model: sk.mask_effects(experiment(model), [mask(model)]),
    "attribution": lambda model: sk.attribution_effects(experiment(model), curvature=0).values,
    "attribution, curvature": lambda model: sk.attribution_effects(experiment(model), curvature=4).values,
    "integrated gradients": lambda model: integrated_gradients_effects(experiment(model)).values,
    "locality": lambda model: table(model),
    "calibration": calibration,
    "removal": removal,
    "pairs": interactions,
    "pruning curve": curve,
    "effects again": again,
    "norms": lambda model: group_norms(model, sk.units_of(model)),
    "training": trained,
    "localize": localized,
    "recovery": recovered,
    "relearning": probed,
    "edges": edges,
    "faithfulness": lambda model: kept(model),
}


@pytest.mark.parametrize("what", list(MEASUREMENTS))
def test_both_faces_give_equal_numbers(what: str) -> None:
    mine, described = (MEASUREMENTS[what](model) for model in fresh())
    assert len(mine) == len(described) > 0
    for one, other in zip(mine, described, strict=True):
        np.testing.assert_allclose(np.asarray(other), np.asarray(one), rtol=1e-4, atol=2e-5)
