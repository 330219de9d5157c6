"""Subtasks and the examples that one draws from them. Families live in `text` (language) and `parity`."""

from skilloc.tasks.examples import IGNORE, MASK, TOKENS, Examples, Inputs, joined
from skilloc.tasks.folds import Folded, blocks_of, fold
from skilloc.tasks.subtask import Split, Subtask, as_subtasks

__all__ = [
    "IGNORE",
    "MASK",
    "TOKENS",
    "Examples",
    "Folded",
    "Inputs",
    "Split",
    "Subtask",
    "as_subtasks",
    "blocks_of",
    "fold",
    "joined",
]
