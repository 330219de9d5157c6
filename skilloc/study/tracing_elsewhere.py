"""Circuits of several subtasks by several workers: each traces one at a time, and writes it where it belongs."""

import contextlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from skilloc import store
from skilloc.attribution.measured import load_measured
from skilloc.circuits.graph import file_of
from skilloc.circuits.trace import Tracing
from skilloc.effects import Effects
from skilloc.models.language import Opened
from skilloc.store.progress import counter
from skilloc.study.elsewhere import made_once, model_again, named_model
from skilloc.study.tracing import Choice, traced
from skilloc.sweep import Order, Pool, done_items
from skilloc.sweep.settings import settings_of


@store.working("folder", inside=True)
def trace_elsewhere(
    opened: Opened, studies: Sequence[Path], folder: Path, choice: Choice, config: Tracing, pool: Pool
) -> None:
    """Have the circuits of studies traced by workers; `trace_study` and `trace_runs` then read them.

    Operations have as many threads as here, since learned circuits depend on it.

    Args:
        opened: the model.
        studies: folders of effects. The circuits of one lie in `folder`, those of several in its `run_0`, `run_1`, ...
        folder: gets the circuits.
        choice: how units are chosen.
        config: how circuits are measured.
        pool: the workers.

    Raises:
        ValueError: as `trace_study`.
    """
    left: dict[str, dict[str, Any]] = {}
    first = load_measured(studies[0]).effects
    for i, study in enumerate(studies):
        home = folder if len(studies) == 1 else folder / f"run_{i}"
        for name in choice.subtasks or first.subtasks:
            path = file_of(home, name)
            if not path.exists():
                left[str(path.relative_to(folder))] = {"study": str(study.absolute()), "subtask": name}
    if not left:
        return
    told: dict[str, Any] = {
        **named_model(opened),
        "choice": choice._asdict(),
        "config": asdict(config),
        "threads": torch.get_num_threads(),
    }
    order = Order(
        f"{__name__}:trace_subtask",
        store.canonical(told),
        folder.absolute(),
        told["home"],
        found=Path.exists,
        patience=math.inf,
    )
    with counter(len(left), "tracing circuits") as bar:
        for _ in done_items({key: {**item, "file": key} for key, item in left.items()}, order, pool):
            bar.update(1)


def trace_subtask(shared: str, item: Mapping[str, Any], out: Path) -> None:
    """Trace the circuit of one subtask, and write it."""
    told = json.loads(shared)
    torch.set_num_threads(told["threads"])
    opened = made_once(f"trace {shared}", lambda: model_again(told))
    effects: Effects = load_measured(Path(item["study"])).effects
    choice = Choice(**told["choice"])._replace(subtasks=(item["subtask"],))
    config = settings_of(Tracing, told["config"])
    with contextlib.chdir(told["home"]):
        traced(opened, effects, (out / item["file"]).parent, choice, config)
