"""The only place that attaches hooks: losses, activations, holding units at a reference, running only a suffix."""

from skilloc.intervene.holding import edits_of, hold
from skilloc.intervene.hooks import blocks, check_model, losses, losses_of, prepared_for, read_activations, reader
from skilloc.intervene.record import record
from skilloc.intervene.reference import (
    REFERENCES,
    Reference,
    as_reference,
    flat_mean_reference,
    given_reference,
    mean_reference,
    paired_reference,
    resample_reference,
    zero_reference,
)
from skilloc.intervene.suffix import Suffix, UnknownLayoutError

__all__ = [
    "REFERENCES",
    "Reference",
    "Suffix",
    "UnknownLayoutError",
    "as_reference",
    "blocks",
    "check_model",
    "edits_of",
    "flat_mean_reference",
    "given_reference",
    "hold",
    "losses",
    "losses_of",
    "mean_reference",
    "paired_reference",
    "prepared_for",
    "read_activations",
    "reader",
    "record",
    "resample_reference",
    "zero_reference",
]
