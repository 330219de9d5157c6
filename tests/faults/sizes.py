"""Results of very many subtasks or units, made of random numbers; and what the commands that show them take.

    python -m faults.sizes [SUBTASKSxUNITS ...]       (in tests/)

prints, for each command, its seconds of CPU, the peak of its memory, and the size of what it wrote and printed.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import networkx as nx
import numpy as np

from skilloc import store
from skilloc.ablation.removal import Removal
from skilloc.circuits import graph as names
from skilloc.effects import Effects
from skilloc.units import Units, neurons

FOLDS, NOISE, LAYER = 8, 0.01, 3000
SIZES = ("1000x200", "200x5000", "3x100000")


def make_study(folder: Path, subtasks: int, units: int, *, seed: int = 0, circuits: int = 0) -> Effects:
    """Save effects, a joint removal and circuits of random numbers, with two units planted for each subtask."""
    random = np.random.default_rng(seed)
    layers = -(-units // LAYER) if units > LAYER else 4
    axis = Units(tuple(neurons(f"layers.{layer}", units // layers, layer) for layer in range(layers)))
    values = NOISE * random.normal(size=(FOLDS, subtasks, len(axis)))
    for s in range(subtasks):
        values[:, s, [7 * s % len(axis), (7 * s + 1) % len(axis)]] += [1.0, 0.5]
    every = tuple(f"subtask {s}" for s in range(subtasks))
    made = {
        "name": f"model {seed}",
        "method": "ablation",
        "reference": {"name": "zero"},
        "tokens": dict.fromkeys(every, "0" * 16),
        "drawn": {"sequences": 64, "split": "report", "subtasks": {name: {"source": name} for name in every}},
    }
    baseline = 3.0 + NOISE * random.normal(size=(FOLDS, subtasks))
    effects = Effects(values, baseline, every, axis, np.ones(len(axis), bool), made)
    store.save(effects, folder / "effects")
    shape = (1, FOLDS, subtasks, subtasks)
    removal = Removal(random.random(shape), 0.1 * random.random((2, *shape)), baseline, every, (2,), made)
    store.save(removal, folder / "removal")
    for s in range(circuits):
        names.save(make_circuit(effects, s, seed, most=6000 // circuits), names.file_of(folder / "circuits", every[s]))
    return effects


def make_circuit(effects: Effects, subtask: int, seed: int, *, most: int) -> nx.DiGraph:
    """Return a circuit of up to so many units, and five edges from each, with effects on up to 50 subtasks each."""
    random, every = np.random.default_rng([seed, subtask]), effects.subtasks[:50]
    units, layers = effects.units.names, effects.units.layers.tolist()
    own = effects.subtasks[subtask]
    graph = nx.DiGraph(version=1, subtask=own, subtasks=list(effects.subtasks), chosen="top", reference="zero")

    def effect() -> dict[str, dict[str, float]]:
        drawn = random.normal(size=len(every)).round(4).tolist()
        return {name: {"value": x, "low": x - 0.01, "high": x + 0.01} for name, x in zip(every, drawn, strict=True)}

    for u in range(min(most, len(units))):
        place = {"layer": layers[u], "column": 1 + layers[u], "position": u}
        graph.add_node(units[u], kind="neuron", hook="", effect=effect(), **place)
    graph.add_node("logits", kind="output", layer=99, column=99, position=0, effect={})
    order = list(graph)
    for a in order[:-1]:
        for b in random.choice(order, size=5, replace=False).tolist():
            if graph.nodes[a]["column"] < graph.nodes[b]["column"]:
                graph.add_edge(a, b, effect=effect(), measured="total")
    return graph


class Took(NamedTuple):
    """What a command took: seconds of CPU, the peak of its memory in MB, and the MB that it printed."""

    status: int
    seconds: float
    memory: float
    printed: float


def took(*line: str | Path) -> Took:
    """Run a command line of skilloc in a process of its own."""
    with tempfile.TemporaryFile() as out:
        command = [sys.executable, "-m", "skilloc", *map(str, line)]
        process = subprocess.Popen(command, stdout=out, env={**os.environ, "OMP_NUM_THREADS": "1"})
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        printed = out.seek(0, os.SEEK_END) / 1e6
    return Took(process.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024 / 1e6, printed)


def main(sizes: list[str]) -> None:
    for size in sizes:
        subtasks, units = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as place:
            one, other = Path(place, "one"), Path(place, "other")
            for seed, folder in enumerate((one, other)):
                make_study(folder, subtasks, units, seed=seed, circuits=min(30, subtasks))
            print(f"{size}: results of {_megabytes(one):.0f} MB", flush=True)
            for line in (
                ("report", one),
                ("show", one),
                ("show", one, "--json"),
                ("locality", one),
                ("locality", one, "--json"),
                ("compare", one, other, "--out", Path(place, "compared")),
                ("compare", one, other, "--json"),
            ):
                said = " ".join(part if isinstance(part, str) else part.name for part in line)
                found = took(*line)
                print(
                    f"    {said}: status {found.status}, {found.seconds:.0f} s, {found.memory:.0f} MB of memory, "
                    f"{found.printed:.2f} MB printed",
                    flush=True,
                )
            for page in (one / "report.html", Path(place, "compared", "compare.html")):
                print(f"    {page.name}: {page.stat().st_size / 1e6:.1f} MB", flush=True)
            print(f"    pictures: {_megabytes(one / 'pictures'):.1f} MB", flush=True)


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("sizes", nargs="*", default=list(SIZES))
    main(parser.parse_args().sizes)
