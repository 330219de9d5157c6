"""The demo: everything that skilloc says about the embedded model and three built-in corpora, in three minutes.

Exact effects of all neurons and heads; how local each skill is; how entangled they are; joint removal beside random
masks; attribution against the exact effects; the circuit of each corpus; pictures, a page in plain words, and all of it
as one report. Stopped at any moment, the same call goes on where it was.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from skilloc import store
from skilloc.attribution import attribution_effects
from skilloc.calibration import calibrate
from skilloc.circuits.trace import Tracing
from skilloc.effects import Effects
from skilloc.models.language import Opened, open_model
from skilloc.report import top_examples, write_report
from skilloc.report.findings import Findings
from skilloc.study.draws import experiment_of, subtasks_of
from skilloc.study.folder import Compared, save_compared
from skilloc.study.measure import measure
from skilloc.study.removing import remove
from skilloc.study.settings import Settings
from skilloc.study.tracing import Choice, trace_study
from skilloc.tasks import Subtask
from skilloc.tasks.text import BUILTIN

SETTINGS = Settings(sequences=24, length=32)
"""2,304 tokens in all: what two cores ablate 2,072 units on in two minutes. Many short examples tell more than few
long ones, because documents differ."""

SIZES, DRAWS = (10, 30, 100), 3

CIRCUIT, TRACING = Choice(30), Tracing(draws=2, adds=False)
"""The 30 units that each corpus needs most: half a minute for all three on two cores."""


def run_demo(
    folder: Path,
    *,
    workers: int = 1,
    model: str = "embedded",
    settings: Settings = SETTINGS,
    report: Callable[[str], None] = lambda line: None,
) -> Findings:
    """Measure, draw and summarise the embedded model into a folder.

    Args:
        folder: where everything is kept; a study, so that `skilloc show` and the others read it.
        workers: number of threads of the exact sweep.
        model: another model.
        settings: how and what to measure.
        report: told, line by line, what is being done.

    Returns:
        What was found, and what the pages were written from.

    Raises:
        ValueError: if the folder belongs to another study.
    """
    report(f"opening {model}, drawing examples of {', '.join(BUILTIN)}")
    opened = open_model(model)
    subtasks = subtasks_of(opened, {name: name for name in BUILTIN}, length=settings.length)
    report("ablating every unit")
    study = measure(opened, subtasks, settings, folder, workers=workers)
    effects = study.effects
    report("comparing attribution with the exact effects")
    if study.compared is None:
        _compare(opened, subtasks, effects, settings, folder)
    report("removing the neurons that each subtask needs most, beside random ones")
    neurons = effects.units.kinds.count("neuron")
    sizes = [n for n in SIZES if n <= neurons]
    remove(opened, effects, folder / "removal", subtasks=subtasks, sizes=sizes, kinds=["neuron"], draws=DRAWS)
    report("tracing the circuit of each subtask, on other text than chose its units")
    _trace(opened, subtasks, effects, settings, folder / "circuits", report)
    report("drawing pictures, writing the summary and the report")
    return write_report(folder)


def _compare(opened: Opened, subtasks: dict[str, Subtask], effects: Effects, settings: Settings, folder: Path) -> None:
    """Estimate the effects that are known exactly."""
    estimate = attribution_effects(experiment_of(opened, subtasks, settings), curvature=settings.curvature)
    estimate = replace(estimate, made={**estimate.made, "drawn": effects.made["drawn"], "name": opened.name})
    everything = np.asarray(effects.measured)
    found = calibrate(estimate, effects, drawn=everything)
    if not (folder / "estimate").is_dir():
        store.save(estimate, folder / "estimate")
    save_compared(folder, Compared(estimate, effects, everything, found))


def _trace(
    opened: Opened,
    subtasks: dict[str, Subtask],
    effects: Effects,
    settings: Settings,
    folder: Path,
    report: Callable[[str], None],
) -> None:
    """Trace the circuits, and collect what excites their units most."""
    names: dict[str, None] = {}
    for name in effects.subtasks:
        try:
            found = trace_study(opened, effects, folder, CIRCUIT, TRACING, subtasks=[name], drawn_from=subtasks)
        except ValueError as error:  # such as a model that has no skill at all: the rest can still be told
            report(f"no circuit of {name}: {error}")
            continue
        names |= dict.fromkeys(found[name])
    experiment = experiment_of(opened, subtasks, settings, units=effects.units)
    examples = top_examples(experiment, names, decode=lambda i: str(opened.tokenizer.decode([i])))
    folder.mkdir(exist_ok=True)
    (folder / "examples.json").write_text(json.dumps(examples), encoding="utf-8")
