"""The type of matrix products is a recorded setting, float32 unless asked for; a measurement only advises."""

import re
from dataclasses import asdict, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from _parity import ParityTraining, train_parity, training_of
from _worlds import curriculum_network, nonlocality_network, tiny_nonlocality_network
from skilloc.cli.localize import Command
from skilloc.models.mlp import MLP
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, products, train

ROOT = Path(__file__).parents[1]
ROUNDED = ("curriculum", "depth", "pruning_nonlocality", "unit_effects", "width_and_seed")
"""Analyses whose `cpu` scale asks for bfloat16."""
TINY = ParityTraining(n=6, sets=((0,), (1,)), composites=((0, 1),), examples=20, width=8, steps=4)


class Seen(TorchDispatchMode):
    """The types of all matrix products."""

    def __init__(self):
        super().__init__()
        self.types = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.types |= {value.dtype for value in args[-2:]}
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("asked", [None, "float32", "bfloat16"])
def test_products_are_of_the_type_that_was_asked_for(asked, by_hand, monkeypatch):
    if not by_hand:
        monkeypatch.setattr("skilloc.training.step.by_hand", lambda *arguments: False)
    model, world = MLP(8, 2, 16, 3), parity_subtasks(6, atoms=2, k=2)
    config = TrainConfig(steps=3, **({} if asked is None else {"products": asked}))
    with Seen() as seen:
        train(model, parity_stream(world.values(), 10, seed=0), config, evaluate={}, progress=False)
    assert seen.types == {torch.bfloat16 if asked == "bfloat16" else torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def specs(value):
    """All parity trainings in the scale of an analysis."""
    if isinstance(value, ParityTraining):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [one for part in [*parts, *getattr(value, "__dict__", {}).values()] for one in specs(part)]


def test_float32_unless_asked_for():
    made = (TINY, curriculum_network(), nonlocality_network(64, 0), tiny_nonlocality_network(0))
    assert {one.products for one in (TrainConfig(1), *made)} == {"float32"}
    assert Command("embedded", (), Path()).products == "float32"
    for path in (ROOT / "analyses").glob("*.py"):
        for name, scale in getattr(import_module(path.stem), "SCALES", {}).items():
            asked = name == "cpu" and path.stem in ROUNDED
            found = {one.products for one in specs(scale)}
            assert found <= {"bfloat16" if asked else "float32"}, f"{path.stem} {name}"
            assert found or path.stem not in ROUNDED


def test_a_record_from_before_is_read_as_what_it_was():
    old = {name: value for name, value in asdict(TINY).items() if name != "products"}
    old |= {"cell": "skilloc.experiments.parity:train_parity", "threads": 1}
    for bf16, kind in ((True, "bfloat16"), (False, "float32")):
        wanted = train_parity(replace(TINY, products=kind))[0]
        assert train_parity(training_of({**old, "bf16": bf16}))[0] == wanted
    assert train_parity(TINY)[0] != train_parity(replace(TINY, products="bfloat16"))[0]


@pytest.mark.parametrize(("float32", "bfloat16", "faster"), [(1.0, 4.0, "float32"), (3.0, 1.0, "bfloat16")])
def test_advice_names_the_faster_type(float32, bfloat16, faster, monkeypatch):
    times = {"float32": float32, "bfloat16": bfloat16}
    monkeypatch.setattr(products, "_taken", lambda kind, rows, width: times[kind])
    told = products.product_advice(rows=10, width=4)
    assert f'"{faster}" would be faster' in told
    assert f"{max(times.values()):.1f} times as long" in told
    assert "10 × 4 by 4 × 4" in told
    monkeypatch.setattr(products, "_taken", lambda kind, rows, width: 1.0 if kind == "float32" else 1.1)
    assert "about as long" in products.product_advice()


def test_advice_is_measured_here_and_refuses_what_cannot_be():
    assert re.fullmatch(
        r"On this processor, products of 64 × 8 by 8 × 8 take .*",
        products.product_advice(rows=64, width=8, seconds=0.01),
    )
    with pytest.raises(ValueError, match="use positive numbers"):
        products.product_advice(rows=0)


def test_a_measurement_is_said_and_nothing_else():
    """Whoever asks for advice prints it on the same line: no setting can depend on it."""
    calls = [
        line
        for folder in ("skilloc", "analyses")
        for path in (ROOT / folder).rglob("*.py")
        for line in path.read_text().splitlines()
        if "product_advice(" in line and not line.startswith("def ")
    ]
    assert len(calls) >= 3
    assert all(re.match(r" *(print|tqdm\.write)\(product_advice\(", line) for line in calls)


def test_unknown_types_are_refused():
    config, training = TrainConfig(1), replace(TINY)
    for settings in (config, training):
        object.__setattr__(settings, "products", "float16")  # past the type checks of the tests
    with pytest.raises(ValueError, match='unknown `products` "float16"; use one of float32, bfloat16'):
        train(MLP(8, 2, 4, 2), lambda step: None, config, evaluate={})
    with pytest.raises(ValueError, match="use float32 or bfloat16"):
        training.__post_init__()
