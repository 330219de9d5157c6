"""Subtasks and the examples that one draws from them. Families live in `text` (language), `parity` and `digits`.

The names are imported when they are first used: `asked`, which the command line's help reads, needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skilloc.tasks.digits import digit_subtasks as digit_subtasks
    from skilloc.tasks.examples import IGNORE as IGNORE
    from skilloc.tasks.examples import MASK as MASK
    from skilloc.tasks.examples import TOKENS as TOKENS
    from skilloc.tasks.examples import Examples as Examples
    from skilloc.tasks.examples import Inputs as Inputs
    from skilloc.tasks.folds import Folded as Folded
    from skilloc.tasks.folds import blocks_of as blocks_of
    from skilloc.tasks.folds import fold as fold
    from skilloc.tasks.joining import joined as joined
    from skilloc.tasks.parity import parity_stream as parity_stream
    from skilloc.tasks.parity import parity_subtasks as parity_subtasks
    from skilloc.tasks.streams import stream as stream
    from skilloc.tasks.subtask import Split as Split
    from skilloc.tasks.subtask import Subtask as Subtask
    from skilloc.tasks.subtask import as_subtasks as as_subtasks
    from skilloc.tasks.text import documents as documents
    from skilloc.tasks.text import text_subtask as text_subtask

_HOMES = {
    "digits": ("digit_subtasks",),
    "examples": ("IGNORE", "MASK", "TOKENS", "Examples", "Inputs"),
    "folds": ("Folded", "blocks_of", "fold"),
    "joining": ("joined",),
    "parity": ("parity_stream", "parity_subtasks"),
    "streams": ("stream",),
    "subtask": ("Split", "Subtask", "as_subtasks"),
    "text": ("documents", "text_subtask"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a name of this room when it is first used."""
    if name not in _HOME:
        raise AttributeError(f'skilloc.tasks has no "{name}"; it has {", ".join(__all__)}')
    found = globals()[name] = getattr(import_module(f"skilloc.tasks.{_HOME[name]}"), name)
    return found
