"""Subtasks and the examples that one draws from them. Families live in `text` (language) and `parity`."""

from skilloc.tasks.examples import IGNORE, MASK, TOKENS, Examples, Inputs, joined
from skilloc.tasks.folds import Folded, blocks_of, fold
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.tasks.stream import stream
from skilloc.tasks.subtask import Split, Subtask, as_subtasks
from skilloc.tasks.text import documents, text_subtask

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
    "documents",
    "fold",
    "joined",
    "parity_stream",
    "parity_subtasks",
    "stream",
    "text_subtask",
]
