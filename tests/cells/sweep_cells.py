"""Cells for the tests of sweeps; workers import this module by name."""

import os
import signal
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from skilloc import store
from skilloc.store import Labelled
from skilloc.sweep import seed_of

Spec = dict[str, Any]


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


@dataclass(frozen=True)
class Sum:
    of: tuple[str, ...]


def curve(settings: Curve) -> Spec:
    assert isinstance(settings.model, Model)
    assert isinstance(settings.labels, tuple)
    return {"area": settings.width * settings.rate * settings.steps + settings.seed / 2}


def odd(settings: Odd) -> Spec:
    return fails_on_odd({"x": settings.x})


def area(settings: Sum, results: Path) -> Spec:
    """Add up what other cells found."""
    return {"area": sum(store.read(results / key).metrics["area"] for key in settings.of)}


def square(spec: Spec) -> Spec:
    return {"square": spec["x"] ** 2}


def with_arrays(spec: Spec) -> tuple[Spec, dict[str, Labelled]]:
    return {"n": spec["n"]}, {"ramp": Labelled(np.arange(spec["n"]), ("unit",))}


def fails_on_odd(spec: Spec) -> Spec:
    if spec["x"] % 2:
        raise ArithmeticError(f"{spec['x']} is odd")
    return {"x": spec["x"]}


def fails_unless_there(spec: Spec) -> Spec:
    return {"text": Path(spec["file"]).read_text()}


def leaves(spec: Spec) -> Spec:
    raise SystemExit(3)


def returns_a_number(spec: Spec) -> Any:
    return 3


def interrupts(spec: Spec) -> Spec:
    if spec["x"] == 2:
        raise KeyboardInterrupt
    return {"x": spec["x"]}


def sees(spec: Spec) -> Spec:
    """What a worker finds set."""
    import torch

    return {"gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "threads": torch.get_num_threads(), "pid": os.getpid()}


def trains(spec: Spec) -> Spec:
    """Train a small network; every draw comes from the spec."""
    import torch

    draws = torch.Generator().manual_seed(seed_of(spec))
    inputs, targets = torch.randn(64, 8, generator=draws), torch.randint(2, (64,), generator=draws)
    first = (torch.randn(8, spec["width"], generator=draws) / 8**0.5).requires_grad_()
    second = (torch.randn(spec["width"], 2, generator=draws) / spec["width"] ** 0.5).requires_grad_()
    for _ in range(10):
        loss = torch.nn.functional.cross_entropy((inputs @ first).relu() @ second, targets)
        slopes = torch.autograd.grad(loss, [first, second])
        with torch.no_grad():
            first -= spec["rate"] * slopes[0]
            second -= spec["rate"] * slopes[1]
    return {"loss": float(loss.detach()), "norm": float(first.detach().norm())}


def naps(spec: Spec) -> Spec:
    """Note each start with the process that made it, then sleep."""
    start = Path(spec["starts"]) / f"{spec['x']}-{os.getpid()}-{uuid.uuid4().hex}"
    start.touch()
    time.sleep(spec["seconds"])
    return {"x": spec["x"]}


def poison(spec: Spec) -> Spec:
    """Kill the own worker in one cell, as a crash in native code or the kernel would."""
    time.sleep(0.02)
    if spec["x"] == spec["bad"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"x": spec["x"]}


def note(shared: str, item: dict[str, Any], out: Path) -> None:
    """Write what was asked, as an item's result; or do what an item says that goes wrong."""
    (Path(shared) / f"{item['x']}-{os.getpid()}-{time.monotonic_ns()}").touch()
    before = len(list(Path(shared).glob(f"{item['x']}-*")))
    if item.get("raises"):
        raise ValueError("this one cannot be measured")
    if item.get("dies"):
        os.kill(os.getpid(), signal.SIGKILL)
    if item.get("hangs") and before == 1:
        time.sleep(600)
    store.write(out / str(item["x"]), {"x": item["x"]}, {})
