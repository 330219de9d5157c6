"""The experiment: a model, subtasks, units, a reference, a loss and folds, checked once at the door; and the only place
that attaches hooks: activations, holding units at a reference, gradients, running only a suffix."""

from skilloc.experiment.checks import check_losses
from skilloc.experiment.door import Experiment
from skilloc.experiment.holding import edits_of, hold
from skilloc.experiment.hooks import read_activations, reader
from skilloc.experiment.means import flat_mean_reference, mean_reference
from skilloc.experiment.reference import (
    REFERENCES,
    Reference,
    as_reference,
    given_reference,
    paired_reference,
    resample_reference,
    zero_reference,
)
from skilloc.experiment.suffix import Suffix, UnknownLayoutError
from skilloc.models.losses import blocks, check_model, losses, prepared_for

__all__ = [
    "REFERENCES",
    "Experiment",
    "Reference",
    "Suffix",
    "UnknownLayoutError",
    "as_reference",
    "blocks",
    "check_losses",
    "check_model",
    "edits_of",
    "flat_mean_reference",
    "given_reference",
    "hold",
    "losses",
    "mean_reference",
    "paired_reference",
    "prepared_for",
    "read_activations",
    "reader",
    "resample_reference",
    "zero_reference",
]
