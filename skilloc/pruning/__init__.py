"""Pruning: masks that stay through training, smaller models, loss against number of kept units, recovery."""

from skilloc.pruning.keeping import Keep, keep
from skilloc.pruning.smaller import prune, remaining

__all__ = ["Keep", "keep", "prune", "remaining"]
