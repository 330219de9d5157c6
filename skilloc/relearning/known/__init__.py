"""Models whose truth is known, and what the probe says of them: the self-test."""

from skilloc.relearning.known.hiding import HIDINGS, Hidden, Hiding
from skilloc.relearning.known.networks import Known, Shelf, Size, known_models
from skilloc.relearning.known.testing import (
    QUICK,
    WHOLE,
    Judged,
    Tested,
    attacked,
    confusion,
    judged,
    record_of,
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
    "Shelf",
    "Size",
    "Tested",
    "attacked",
    "confusion",
    "judged",
    "known_models",
    "record_of",
    "self_test",
]
