"""Models whose truth is known, and what the probe says of them: the self-test."""

from skilloc.relearning.known.hiding import Hidden, Hiding
from skilloc.relearning.known.hidings import HIDINGS
from skilloc.relearning.known.networks import Size, known_models
from skilloc.relearning.known.recording import blurred, record_of
from skilloc.relearning.known.shelves import Known, Shelf, Truth
from skilloc.relearning.known.testing import (
    QUICK,
    WHOLE,
    Judged,
    Seen,
    Tested,
    attacked,
    confusion,
    judged,
    recorded,
    self_test,
)

__all__ = [
    "HIDINGS",
    "QUICK",
    "WHOLE",
    "Hidden",
    "Hiding",
    "Judged",
    "Known",
    "Seen",
    "Shelf",
    "Size",
    "Tested",
    "Truth",
    "attacked",
    "blurred",
    "confusion",
    "judged",
    "known_models",
    "record_of",
    "recorded",
    "self_test",
]
