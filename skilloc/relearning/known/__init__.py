"""Models whose truth is known, and what the probe says of them: the self-test."""

from skilloc.relearning.known.hiding import HIDINGS, Hiding
from skilloc.relearning.known.networks import Known, Shelf, known_models, shelf_of
from skilloc.relearning.known.testing import attacked

__all__ = [
    "HIDINGS",
    "Hiding",
    "Known",
    "Shelf",
    "attacked",
    "known_models",
    "shelf_of",
]
