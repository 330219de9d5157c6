"""How long does an exact measurement take, what do more workers cost, and what would it take on larger models?

An answer would be: a forecast from sizes alone (`skilloc.ablation.cost`), right within a factor of 1.5 on two models,
small and larger; and two processes that need at most 1.1 times the CPU seconds of one, their opening of
the model apart, and 0.6 of its time. That time is of the clock, and means something on an idle machine only; everything
else is in CPU seconds, which other work on the machine does not change much.

Minutes: about two of one core; with `--smollm2`, after `skilloc fetch smollm2`, some three more. Prints JSON.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from skilloc.ablation import ablation_effects
from skilloc.ablation.cost import Sizes, attribution_sweep, exact_sweep
from skilloc.ablation.routes import lay_trunk
from skilloc.experiment import Experiment
from skilloc.experiment.threads import one_thread
from skilloc.models.language import open_model
from skilloc.models.makers import units_of
from skilloc.study.draws import subtasks_of
from skilloc.study.measure import measure
from skilloc.study.settings import Settings
from skilloc.sweep import Order, Pool, done_items
from skilloc.units import Units

FEW, MANY = 2, 30
"""Items of 16 neurons: their difference is without the opening of the model."""

LAYERS = {"embedded": (0, 1, 2, 3), "smollm2": (2, 15, 27)}
PER_LAYER = {"embedded": 16, "smollm2": 9}
LENGTH = {"embedded": 96, "smollm2": 128}

LARGER = {
    "1B": (Sizes(16, 60.8e6, 2048, 128_256, 4096, 512, 263e6), 8192, 32),
    "8B": (Sizes(32, 218.1e6, 4096, 128_256, 4096, 512, 1051e6), 14336, 32),
    "70B": (Sizes(80, 855.7e6, 8192, 128_256, 4096, 512, 2101e6), 28672, 64),
}
"""Shapes of Llama 3: sizes with 4,096 tokens, neurons and heads of a layer."""


def spent() -> float:
    """Return the CPU seconds of this process and of all that it has started and seen end."""
    return sum(os.times()[:4])


def of_workers(pool: int | Pool) -> dict[str, float]:
    """Return what an item of the embedded model takes, and everything else: opening it, above all."""
    opened = open_model("embedded")
    subtasks = subtasks_of(opened, {"python": "python"}, length=96)
    found = []
    for count in (FEW, MANY):
        names = tuple(f"L1N{n}" for n in range(16 * count))
        settings = Settings(sequences=8, folds=8, only=names)
        with tempfile.TemporaryDirectory() as folder:
            began = np.array([spent(), time.perf_counter()])
            measure(opened, subtasks, settings, Path(folder) / "study", workers=pool)
            found.append(np.array([spent(), time.perf_counter()]) - began)
    (each, clock), (first, _) = (found[1] - found[0]) / (MANY - FEW), found[0]
    return {
        "seconds_of_an_item": float(each),
        "everything_else": float(first - FEW * each),
        "clock_of_an_item": float(clock),
    }


def nothing(shared: str, item: dict[str, Any], out: Path) -> None:
    """Do an item that is no work: what is left is what it costs to move it."""
    (out / str(item["x"])).touch()


def of_moving(count: int = 300) -> float:
    """Return the CPU seconds of moving an item to a worker and its word back."""
    with tempfile.TemporaryDirectory() as folder:
        order = Order("scale:nothing", "{}" * 5000, Path(folder), str(Path(__file__).parent), Path.exists)
        found = []
        for many in (10, 10 + count):
            began = spent()
            list(done_items({f"{many}-{x}": {"x": f"{many}-{x}"} for x in range(many)}, order, Pool(workers=1)))
            found.append(spent() - began)
    return (found[1] - found[0]) / count


def forecast_and_measured(name: str) -> dict[str, float]:
    """Return, of a sample of neurons and heads, the seconds that were forecast from a single pass, and measured."""
    opened = open_model(name)
    subtasks = subtasks_of(opened, {"python": "python"}, length=LENGTH[name])
    every = units_of(opened.model)
    units = Units(tuple(bank for bank in every.banks if bank.layer in LAYERS[name]))
    experiment = Experiment(opened.model, subtasks, units=units, count=4, folds=4)
    rng, chosen = np.random.default_rng(0), np.zeros(len(units), dtype=bool)
    for bank in units.banks:
        first = units.span(bank.name).start
        chosen[first + rng.choice(bank.width, min(PER_LAYER[name], bank.width), replace=False)] = True
    with one_thread():
        trunk = lay_trunk(experiment)
        # Each bank's units are compared with a pass of the untouched model, from the same block.
        cost = sum(trunk.cost(bank.name) * (1 + int(chosen[units.span(bank.name)].sum())) for bank in units.banks)
        began = time.thread_time()
        lay_trunk(experiment, banks=())
        laying = time.thread_time() - began
    began = time.thread_time()
    ablation_effects(experiment, select=chosen)
    seconds = time.thread_time() - began
    began = time.thread_time()
    with one_thread():
        lay_trunk(experiment)
    seconds -= time.thread_time() - began
    return {
        "units": int(chosen.sum()),
        "forecast_seconds": cost / trunk.pace,
        "measured_seconds": seconds,
        "laying_seconds": laying,
        "gflops": trunk.pace / 1e9,
    }


def larger() -> dict[str, dict[str, float]]:
    """Return what is to be done on larger models."""
    found = {}
    for name, (sizes, neurons, heads) in LARGER.items():
        sweep, top = exact_sweep(sizes, neurons, heads), exact_sweep(sizes, 0, heads)
        found[name] = {
            "units": sweep.units,
            "items": sweep.items,
            "petaflops": sweep.flops / 1e15,
            "heads_petaflops": top.flops / 1e15,
            "attribution_petaflops": attribution_sweep(sizes) / 1e15,
            "gigabytes": sizes.memory(2**26) / 1e9,
            "gigabytes_of_16_bits": sizes.memory(2**26, 2) / 1e9,
        }
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--smollm2", action="store_true", help="check the forecast on it too")
    parser.add_argument("--workers", type=int, nargs="*", default=[1, 2], help="numbers of processes")
    given = parser.parse_args()
    found: dict[str, Any] = {"larger": larger()}
    for name in ("embedded", *(["smollm2"] if given.smollm2 else [])):
        found[name] = forecast_and_measured(name)
        print(json.dumps({name: found[name]}), flush=True)
    hired: dict[str, int | Pool] = {f"{count} processes": Pool(workers=count) for count in given.workers}
    for who, pool in {"one thread": 1, **hired}.items():
        found[who] = of_workers(pool)
        print(json.dumps({who: found[who]}), flush=True)
    found["moving"] = of_moving()
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
