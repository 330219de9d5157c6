"""Smaller language models, made in one of several ways from a large one, and trained: the cells of a frontier."""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import nn

from _narrow import (
    Criterion,
    Text,
    Training,
    device,
    experiment_on,
    held_out,
    least_dropped,
    opened_text,
    scores_of,
    trained,
)
from skilloc.experiment import losses
from skilloc.masks import Mask
from skilloc.models.language import open_model
from skilloc.models.makers import units_of
from skilloc.pruning import prune
from skilloc.tasks.losses import cross_entropy, distillation
from skilloc.training.settings import Objective

Method = Literal["pruned", "random", "distillation", "scratch"]
"""Units with the least effects dropped, and units by chance, both trained again; a fresh student that is taught, and
one of the same shape that reads the text alone."""

METHODS: tuple[Method, ...] = get_args(Method)
DROPPED: dict[Method, Criterion] = {"pruned": "curvature", "random": "random"}


@dataclass(frozen=True)
class Whole:
    """The spec of a cell: the large model, as it is."""

    text: Text


@dataclass(frozen=True)
class Narrowed:
    """The spec of a cell: a smaller model, made in one way and trained."""

    text: Text
    training: Training
    method: Method
    dropped: tuple[float, float] = (0.0, 0.0)
    """shares of neurons and of residual dimensions"""
    student: tuple[int, int, int] = (0, 0, 0)
    """width, layers and heads, of a student"""
    temperature: float = 2.0
    """of the teacher"""
    soft: float = 0.5
    """share of the loss that comes from the teacher"""
    seed: int = 0
    """of fresh weights, of chance and of the training examples"""


def know(settings: Whole) -> dict[str, Any]:
    """Return the held-out losses of the large model, in nats per token, and its number of parameters."""
    opened, kept = opened_text(settings.text)
    parts = held_out(kept, settings.text)
    loss = {split: float(losses(opened.model, own).mean()) for split, own in parts.items()}
    return {"loss": loss, "parameters": _parameters(opened.model)}


def narrow(settings: Narrowed) -> dict[str, Any]:
    """Make a smaller model by one method, and train it for as many steps as any other.

    Returns:
        `path`: held-out losses by step, on both splits; `parameters`; how many examples units were `scored` by; CPU
        `seconds` of making it (`scoring`) and of all training with its looks (`training`).
    """
    began = time.process_time()
    large = opened_text(settings.text)[0].model
    model = without(settings) if settings.method in DROPPED else student(settings)
    made = time.process_time()
    taught = Objective(distillation(settings.temperature, settings.soft), cross_entropy, large)
    path = trained(
        model,
        settings.text,
        settings.training,
        objective=taught if settings.method == "distillation" else None,
        seed=settings.seed,
    )
    return {
        "path": path,
        "parameters": _parameters(model),
        "scored": settings.text.scored if settings.method == "pruned" else 0,
        "scoring": made - began,
        "training": time.process_time() - made,
    }


def without(settings: Narrowed) -> nn.Module:
    """Return the large model without a share of its neurons and of its residual dimensions, cut out."""
    model = opened_text(settings.text)[0].model
    keeps = []
    for kind, share in zip(("neuron", "residual"), settings.dropped, strict=True):
        experiment = experiment_on(replace(settings.text, kinds=(kind,)), seed=settings.seed, folds=1)
        scores = scores_of(experiment, DROPPED[settings.method], seed=settings.seed)
        keeps.append(least_dropped(experiment.units, scores, share))
    neurons, stream = keeps
    smaller = prune(model, neurons)
    return prune(smaller, Mask(units_of(smaller, kinds=("residual",)), stream.keep))


def student(settings: Narrowed) -> nn.Module:
    """Return a fresh model of the large one's family, its layers as wide in proportion, a key for every head."""
    opened = opened_text(settings.text)[0]
    whole = opened.model.original_model
    width, layers, heads = settings.student
    config = copy.deepcopy(whole.config)
    config.intermediate_size = config.intermediate_size * width // config.hidden_size
    config.hidden_size, config.num_hidden_layers = width, layers
    config.num_attention_heads = config.num_key_value_heads = heads
    config.head_dim = width // heads
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(settings.seed)
        made = type(whole)._from_config(config, dtype=whole.dtype)
    built: nn.Module = open_model(made, tokenizer=opened.tokenizer, device=device()).model
    return built


def _parameters(model: nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def settings_for(method: Method, rates: Sequence[float]) -> list[dict[str, Any]]:
    """Return as many settings as rates, the same rates for all; a teacher's temperature and share in turn."""
    teachers = [(1.0, 0.5), (2.0, 0.9), (2.0, 0.5), (1.0, 0.9)] if method == "distillation" else [(2.0, 0.5)]
    return [
        {"rate": rate, "temperature": teachers[i % len(teachers)][0], "soft": teachers[i % len(teachers)][1]}
        for i, rate in enumerate(rates)
    ]
