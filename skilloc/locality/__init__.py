"""Locality: how few units carry a subtask, which units subtasks share, and what removing them does.

Effects are signed, in nats, positive where the subtask needs the unit, measured on disjoint folds of the examples; NaN
marks a unit that was not measured. Every score comes with a 95 % interval over folds and its chance level.

- One subtask (`scores`, `table`): effective number of units, Gini, Hoyer, locality and others, free of noise bias.
- What lies under the noise (`bulk`), and the largest units with intervals that pay for having been picked (`picked`).
- Between subtasks (`between`): overlap, top-k Jaccard, rank correlation; `selectivity` per unit.
- Joint removal (`removal_scores`): specificity, asymmetry, hierarchy, excess over random masks; `interaction` of pairs.
- Scores and ranks under several references (`reference_spread`).
"""

from .concentration import NAMES, chance, plain, scores, table
from .deconvolution import Bulk, Picked, bulk, picked
from .entanglement import between, overlap, rank_correlation, reliability, selectivity, top_jaccard
from .references import Moved, ReferenceSpread, reference_spread
from .removal import interaction, removal_scores

__all__ = [
    "NAMES",
    "Bulk",
    "Moved",
    "Picked",
    "ReferenceSpread",
    "between",
    "bulk",
    "chance",
    "interaction",
    "overlap",
    "picked",
    "plain",
    "rank_correlation",
    "reference_spread",
    "reliability",
    "removal_scores",
    "scores",
    "selectivity",
    "table",
    "top_jaccard",
]
