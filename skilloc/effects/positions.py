"""Effects by position: of units that are held at one position only."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from skilloc.mistakes import WrongValue
from skilloc.units import Units


@dataclass(frozen=True)
class PositionEffects:
    """Effects of units, by position.

    Attributes:
        values: in the unit of the loss, on `fold subtask position unit`; NaN where a unit was not measured.
        positions: names on the position axis: "0", "1", ..., or names that the examples give.
        subtasks: names on the subtask axis.
        units: the unit axis.
        unit: of the loss.
        made: what made the effects. JSON only.
    """

    WHAT: ClassVar[str] = "position effects"

    values: Float[np.ndarray, "fold subtask position unit"]
    positions: tuple[str, ...]
    subtasks: tuple[str, ...]
    units: Units
    unit: str = "nats"
    made: Mapping[str, Any] = field(default_factory=dict)

    def mean(self, subtask: str) -> Float[np.ndarray, "position unit"]:
        """Return the effects on one subtask: the mean over folds.

        Raises:
            ValueError: if there is no such subtask.
        """
        if subtask not in self.subtasks:
            raise WrongValue(f'unknown subtask "{subtask}"; these effects have {", ".join(self.subtasks)}')
        found: np.ndarray = self.values[:, self.subtasks.index(subtask)].mean(axis=0)
        return found
