"""What is logged while training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from skilloc.mistakes import WrongValue

NATS = "nats"
"""The unit of a record that names none."""


@dataclass(frozen=True)
class History:
    """What was logged while training.

    Attributes:
        columns: equally long columns: "step" (steps done), "examples" (examples seen), "loss" (the last step's own;
            that of the first step in the first row), one per term, and one per evaluated subtask.
        unit: of losses and terms.

    Raises:
        ValueError: if there are no columns or they differ in length.
    """

    columns: Mapping[str, Float64[np.ndarray, " row"]]
    unit: str = NATS

    def __post_init__(self) -> None:
        lengths = {name: len(column) for name, column in self.columns.items()}
        if len(set(lengths.values())) != 1:
            raise WrongValue(f"`columns` have lengths {lengths}; give at least one column, and all the same length")

    def of(self, name: str) -> Float64[np.ndarray, " row"]:
        """Return one column.

        Raises:
            ValueError: if there is no such column.
        """
        if name not in self.columns:
            raise WrongValue(f'unknown column "{name}"; this history has {", ".join(self.columns)}')
        return self.columns[name]

    def first_below(self, name: str, value: float) -> int | None:
        """Return the first logged step at which a column is below a value, or None."""
        found = np.flatnonzero(self.of(name) < value)
        return int(self.of("step")[found[0]]) if len(found) else None

    def record(self) -> dict[str, Any]:
        """Return a JSON form: a list per column, and "unit" where that is not nats; `History.from_record` reads it."""
        columns = {name: column.tolist() for name, column in self.columns.items()}
        return columns if self.unit == NATS else {**columns, "unit": self.unit}

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> "History":
        """Read what `record` wrote."""
        columns = {name: np.array(column, dtype=np.float64) for name, column in record.items() if name != "unit"}
        return History(columns, record.get("unit", NATS))
