"""What became of a model: of one that was localized, and of one that was pruned."""

from dataclasses import dataclass
from typing import NamedTuple

from skilloc.locality.intervals import Interval
from skilloc.training import History


class Change(NamedTuple):
    """The loss of a subtask on the report split, before and after, and the change with its 95 % interval over folds."""

    kept: bool
    before: float
    after: float
    change: Interval


@dataclass(frozen=True)
class Localized:
    """What became of a localized model.

    Attributes:
        subtasks: by name; the model was trained on those that are kept.
        unit: of the losses.
        live: number of units whose weights are not all zero, by hook.
        units: number of units, by hook.
        revivals: how often a dead unit came to life again.
        model: digest of the localized model.
        history: of the training.
    """

    subtasks: dict[str, Change]
    unit: str
    live: dict[str, int]
    units: dict[str, int]
    revivals: int
    model: str
    history: History


class Stages(NamedTuple):
    """A loss, or an accuracy, before and after pruning, and with random masks of equal size on every hook."""

    before: Interval
    after: Interval
    random: Interval


class Parameters(NamedTuple):
    """Number of parameters before and after."""

    before: int
    after: int


@dataclass(frozen=True)
class Pruned:
    """What became of a pruned model.

    Attributes:
        unit: of the losses.
        kept: number of units that were kept.
        units: number of units there were.
        zeros: number of dropped units that stay as zeros, since they could not be cut out alone.
        parameters: of the model.
        bytes: size of the saved weights.
        widths: number of units that are left, by hook.
        kept_for: subtasks that units were kept for.
        subtasks: by name, the loss, and the accuracy where there are classes, with 95 % intervals over folds.
        model: digest of the smaller model.
        split: of the examples that losses are of.
    """

    unit: str
    kept: int
    units: int
    zeros: int
    parameters: Parameters
    bytes: int
    widths: dict[str, int]
    kept_for: tuple[str, ...]
    subtasks: dict[str, dict[str, Stages]]
    model: str
    split: str
