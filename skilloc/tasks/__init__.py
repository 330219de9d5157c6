"""Subtasks: distributions of examples with a loss. Families live in `text` (language), `parity`, later `choice`."""

from skilloc.tasks.subtask import IGNORE, Batch, Subtask

__all__ = ["IGNORE", "Batch", "Subtask"]
