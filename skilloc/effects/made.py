"""What the record of effects says about them, in this version and those before."""

from collections.abc import Mapping
from typing import Any


def reference_name(made: Mapping[str, Any]) -> str | None:
    """Return the reference that a record names; the mean of a record without a loss, of version 0.1, is over positions
    too."""
    name = made.get("reference", {}).get("name")
    return "flat mean" if name == "mean" and "loss" not in made else name


def unit_of(made: Mapping[str, Any]) -> str:
    """Return the unit of the loss that a record names; version 0.1 knew nats only."""
    return str(made.get("loss", {}).get("unit", "nats"))
