"""Experiments for the tests of configurations."""

from dataclasses import dataclass, field
from typing import Any

from sweep_cells import fails_on_odd

from skilloc.experiments import Experiment


@dataclass(frozen=True)
class Model:
    depth: int = 1
    kind: str = "a"


@dataclass(frozen=True)
class Curve:
    width: int = 4
    rate: float = 0.1
    steps: int = 10
    seed: int = 0
    labels: tuple[str, ...] = ("x",)
    model: Model = field(default_factory=Model)

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"`width` is {self.width}; use at least 1")


@dataclass(frozen=True)
class Odd:
    x: int = 0


def curve(spec: dict[str, Any]) -> dict[str, Any]:
    return {"area": spec["width"] * spec["rate"] * spec["steps"] + spec["seed"] / 2}


EXPERIMENTS = {
    "curve": Experiment("sweep_experiments:curve", Curve, "area under a curve"),
    "odd": Experiment(f"{fails_on_odd.__module__}:fails_on_odd", Odd, "fails on odd numbers"),
}
