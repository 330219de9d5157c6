"""Losses and accuracies of one model on folded batches, from the same forward passes."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from jaxtyping import Float64

from skilloc.intervene import Folded, Reference, blocks_of_rows, example_losses, hold, logits_of, widest
from skilloc.masks import Mask


def scored(
    model: Any, folded: Folded, held: tuple[Mask, Reference] | None = None
) -> Float64[np.ndarray, "2 fold subtask"]:
    """Return the mean loss per fold and subtask in nats per scored target, and the share of examples that are right.

    The share is NaN where examples are sequences, which have no single class.

    Args:
        model: a bridge or an `MLP`.
        folded: the examples.
        held: which units are kept, and what the others are held at; the model as it is if not given.
    """
    batch, losses, hits = folded.batch, [], []
    with torch.no_grad():
        for rows in blocks_of_rows(batch, widest(model)):
            with nullcontext() if held is None else hold(model, *held, rows):
                logits = logits_of(model(batch.inputs[rows]))
            targets = batch.targets[rows]
            losses.append(example_losses(logits, targets))
            if targets.ndim == 1:
                hits.append((logits.argmax(dim=-1) == targets).double())
    found = torch.cat(losses)
    right = torch.cat(hits) if hits else torch.full_like(found, torch.nan)
    return np.stack([folded.mean(part.cpu().numpy()) for part in (found, right)])
