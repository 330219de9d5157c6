"""Language models finetuned on the text that they are to keep, with the penalty or without: cells and models."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from _narrow import Text, experiment_on, opened_text, scores_of, spread_of
from skilloc import store
from skilloc.lasso import LocalizeConfig, group_norms, localize
from skilloc.models.makers import face_of, units_of
from skilloc.store import Labelled
from skilloc.training import TrainConfig
from skilloc.training.settings import Products


@dataclass(frozen=True)
class Finetuned:
    """The spec of a cell: a model, finetuned on its text."""

    text: Text
    strength: float
    """of the penalty, in nats; 0 is plain finetuning"""
    steps: int = 1500
    """of AdamW; none leaves the model untouched"""
    rate: float = 5e-4
    """at full height"""
    examples: int = 8
    """per step"""
    products: Products = "float32"
    """type of the matrix products; weights, gradients and the optimiser are float32"""
    seed: int = 0
    """of the examples"""
    sparsity: float = 0.0
    """share of units that the penalty is steered to make zero, after which it stops; 0 for no steering"""


def finetune(settings: Finetuned) -> tuple[dict[str, Any], dict[str, Labelled]]:
    """Finetune a model on its text, with the penalty or without.

    Returns:
        Held-out loss by step, live units and their number; and the weights and the scores of the units.
    """
    opened, kept = opened_text(settings.text)
    model, path = opened.model, {}
    if settings.steps:
        count = len(units_of(model, kinds=settings.text.kinds))
        config = LocalizeConfig(
            TrainConfig(
                steps=settings.steps,
                rate=settings.rate,
                products=settings.products,
                optimiser="adamw",
                eps=1e-8,
                clip=1.0,
                warm_up=0.02,
                decay="linear",
                evaluate_every=max(1, settings.steps // 20),
                spread=spread_of(settings.examples),
            ),
            strength=settings.strength,
            wanted_live=count - round(settings.sparsity * count) if settings.sparsity else None,
            kinds=settings.text.kinds,
            examples=settings.examples,
            held_out=settings.text.held_out,
        )
        model, history = localize(model, [kept], config, seed=settings.seed)
        path = {name: history.of(name).tolist() for name in ("step", "kept", "live")}
    experiment = experiment_on(settings.text, seed=settings.seed, model=model)
    scores = scores_of(experiment, "attribution", seed=settings.seed)
    live = int((group_norms(model, experiment.units) > 0).sum())
    arrays = {**weights_of(model), "scores": Labelled(scores, ("unit",), {"unit": experiment.units.names})}
    return {"path": path, "live": live, "units": len(scores)}, arrays


def finetuned_model(text: Text, results: Path, key: str) -> tuple[Any, np.ndarray]:
    """Return the model that a cell of `finetune` left, and the attributions of its units."""
    stored = store.read(results / key)
    return with_weights(opened_text(text)[0].model, stored.arrays), stored.arrays["scores"].values


def weights_of(model: nn.Module) -> dict[str, Labelled]:
    """Return the weights of a model, to be stored."""
    return {
        f"weights.{name}": Labelled(value.detach().cpu().numpy(), tuple(f"axis_{i}" for i in range(value.ndim)))
        for name, value in model.named_parameters()
    }


@torch.no_grad()
def with_weights(model: nn.Module, arrays: Mapping[str, Labelled]) -> nn.Module:
    """Return a copy of a model with the weights that `weights_of` gave."""
    made = face_of(model).copy()
    for name, value in made.named_parameters():
        value.copy_(torch.from_numpy(arrays[f"weights.{name}"].values))
    return made
