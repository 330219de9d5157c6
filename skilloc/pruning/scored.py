"""Losses and accuracies of one model on an experiment's examples, from the same forward passes."""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Float64
from torch import nn

from skilloc.experiment import Experiment, blocks, hold
from skilloc.masks import Mask
from skilloc.models.makers import face_of
from skilloc.tasks.losses import error


@torch.no_grad()
def scored(
    experiment: Experiment, mask: Mask | None = None, *, model: nn.Module | None = None
) -> Float64[np.ndarray, "2 fold subtask"]:
    """Return the mean loss per fold and subtask, in the loss's unit, and the share of examples that are right.

    The share is NaN where examples are sequences, which have no single class.

    Args:
        experiment: the examples, the loss and what it knows, and what units are held at.
        mask: which units are kept, the others held; the model as it is if not given.
        model: measured in place of the experiment's own, for instance a smaller one that was made of it.
    """
    face, examples = experiment.face if model is None else face_of(model), experiment.folded.examples
    losses, hits = [], []
    for block in blocks(face, examples):
        some, known = experiment.part(block)
        held: AbstractContextManager[None] = nullcontext()
        if mask is not None:
            held = hold(face.module, mask, experiment.held, experiment.rows_of(block), where=experiment.where)
        with held:
            logits = face.run(some.inputs)
        losses.append(experiment.metric(logits, some, known))
        if examples.targets.ndim == 1:
            hits.append(1 - error(logits, some))
    found = torch.cat(losses)
    right = torch.cat(hits) if hits else torch.full_like(found, torch.nan)
    return np.stack([experiment.folded.mean(part.cpu().numpy()) for part in (found, right)])
