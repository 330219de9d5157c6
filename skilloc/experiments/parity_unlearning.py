"""Is a composite parity removed from a network by pruning it for another? The probe, with its controls."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skilloc.experiments.nonlocality import KEPT, OTHER, count_at, magnitudes, open_network
from skilloc.experiments.specs import settings_of

if TYPE_CHECKING:
    from skilloc.masks import Mask
    from skilloc.models.mlp import MLP
    from skilloc.relearning import Grid
    from skilloc.store import Labelled
    from skilloc.tasks import Subtask


@dataclass(frozen=True)
class Attacked:
    """The spec of one cell: pruned networks and their controls under one attack."""

    networks: str
    """folder of a sweep"""
    network: str
    """key of the network, from `train_parity`"""
    unseen: str
    """key of one that was never trained on the other composite; empty for none"""
    plain: str
    """key of its `plain finetuning`, from `measure_nonlocality`"""
    lasso: str
    """key of its `group lasso`"""
    naive_sparsity: float
    """share of units dropped from the network as trained"""
    lasso_sparsity: float
    """share of units dropped after group lasso"""
    examples: int = 2000
    """held-out examples per subtask and split"""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    """of Adam"""
    budgets: tuple[int, ...] = (16, 64, 250, 1000)
    """steps of the attack"""
    each: int = 1000
    """examples per step"""
    repair: int = 500
    """steps of repair on the kept composite, at most"""


def attack_pruned(spec: Mapping[str, Any]) -> "tuple[dict[str, Any], dict[str, Labelled]]":
    """Retrain pruned networks and all controls on the other composite, over a grid of rates.

    Args:
        spec: the fields of `Attacked`.

    Returns:
        The record and the arrays of a `Relearning` with one seed; see `relearning.over_seeds`.
    """
    from skilloc import store
    from skilloc.models.makers import units_of
    from skilloc.pruning import prune
    from skilloc.relearning import NEVER, ORIGINAL, PLAIN, RANDOM, UNSEEN, relearn_probe
    from skilloc.relearning.controls import randomly_pruned, untrained

    settings = settings_of(Attacked, spec)
    original, world, seed = open_network(settings.networks, settings.network)
    naive = prune(original, _dropped(original, settings.naive_sparsity, world, settings.examples, seed))
    localized = _with_weights(original, store.read(Path(settings.networks) / settings.lasso))
    pruned = prune(localized, _dropped(localized, settings.lasso_sparsity, world, settings.examples, seed))
    models: dict[str, Any] = {
        ORIGINAL: original,
        NEVER: untrained(naive, seed=seed),
        RANDOM: randomly_pruned(original, naive, seed=seed),
        PLAIN: _with_weights(original, store.read(Path(settings.networks) / settings.plain)),
        "naive pruning": naive,
        "group lasso": pruned,
    }
    if settings.unseen:
        models[UNSEEN] = open_network(settings.networks, settings.unseen)[0]
    found = relearn_probe(models, [world[OTHER]], world[OTHER], _grid(settings), (seed,), kept=[world[KEPT]])
    return {"relearning": found.record(), "units": {n: len(units_of(m)) for n, m in models.items()}}, found.arrays()


def _grid(settings: Attacked) -> "Grid":
    from skilloc.relearning import Grid

    return Grid(
        rates=settings.rates,
        budgets=settings.budgets,
        each=settings.each,
        held_out=settings.examples,
        repair=settings.repair,
    )


def _dropped(model: "MLP", sparsity: float, world: "Mapping[str, Subtask]", examples: int, seed: int) -> "Mask":
    from skilloc.models.makers import units_of
    from skilloc.pruning import masks_of

    units = units_of(model)
    return masks_of(units, magnitudes(model, world, examples, seed), [count_at(len(units), sparsity)])[0]


def _with_weights(original: "MLP", result: Any) -> "MLP":
    """Return a network of the same shape with the weights that a cell stored."""
    import copy

    import torch

    model = copy.deepcopy(original)
    stored = {name[6:]: array.values for name, array in result.arrays.items() if name.startswith("model.")}
    model.load_state_dict({name: torch.from_numpy(values) for name, values in stored.items()})
    return model
