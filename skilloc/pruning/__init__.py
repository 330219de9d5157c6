"""Pruning: masks that stay through training, smaller models, loss against number of kept units, recovery."""

from skilloc.pruning.able import Able, can
from skilloc.pruning.choosing import Scorer, masks_of
from skilloc.pruning.curves import Curve, mask_curve
from skilloc.pruning.keeping import Keep, keep
from skilloc.pruning.recovery import Recovery, recover
from skilloc.pruning.scoring import effects_again
from skilloc.pruning.smaller import prune, remaining

__all__ = [
    "Able",
    "Curve",
    "Keep",
    "Recovery",
    "Scorer",
    "can",
    "effects_again",
    "keep",
    "mask_curve",
    "masks_of",
    "prune",
    "recover",
    "remaining",
]
