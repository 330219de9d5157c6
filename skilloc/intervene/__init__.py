"""The only place that attaches hooks: losses, activations, holding units at a reference, running only a suffix."""

from skilloc.intervene.holding import hold
from skilloc.intervene.hooks import attached, blocks_of_rows, losses, read_activations, widest
from skilloc.intervene.losses import Folded, check_losses, check_model, example_losses, fold, logits_of
from skilloc.intervene.record import record
from skilloc.intervene.reference import (
    Reference,
    as_reference,
    given_reference,
    mean_reference,
    resample_reference,
    zero_reference,
)
from skilloc.intervene.suffix import Edit, Suffix, UnknownLayoutError

__all__ = [
    "Edit",
    "Folded",
    "Reference",
    "Suffix",
    "UnknownLayoutError",
    "as_reference",
    "attached",
    "blocks_of_rows",
    "check_losses",
    "check_model",
    "example_losses",
    "fold",
    "given_reference",
    "hold",
    "logits_of",
    "losses",
    "mean_reference",
    "read_activations",
    "record",
    "resample_reference",
    "widest",
    "zero_reference",
]
