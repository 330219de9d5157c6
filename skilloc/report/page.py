"""The report: everything that was measured in a folder, as one page that a colleague can judge without installing."""

import json
import tempfile
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from skilloc import store
from skilloc.circuits import graph as circuit_graph
from skilloc.pages.circuit import circuit_data, circuit_section
from skilloc.pages.document import document, escape, picture, table
from skilloc.pages.provenance import other_results, provenance
from skilloc.positions import PositionEffects
from skilloc.removal import Removal
from skilloc.study.folder import Study, load_study
from skilloc.study.pictures import draw_study
from skilloc.study.report import (
    Record,
    about,
    calibration_record,
    interval,
    locality_record,
    number,
    peaks,
    positions_record,
    removal_record,
    top_units,
    whole_model_words,
)
from skilloc.study.summary import ROWS, compared

EXAMPLES = "examples.json"
"""Top examples, as `top_examples` collects them, lie beside the circuits in a file of this name."""

CIRCUITS = "<p>The units that carry a subtask, and how much of the effect of one passes through another.</p>"
CHOSEN = """<p>The units were chosen on other folds than those reported. Specificity is the loss increase of the subtask
itself over the mean of the others.</p>"""

ALT = {
    "units": "effects of all units on all subtasks, one block of rows per layer",
    "sorted": "effects by rank",
    "locality": "locality scores with intervals and chance levels",
    "entanglement": "how far subtasks need the same units",
    "removal": "loss increases when the top units of a subtask are removed together",
    "positions": "effects of the top units when held at one position only",
    "calibration": "estimated against exact effects",
}


def report_page(folder: Path, *, when: str | None = None) -> str:
    """Return a page about everything in a folder: the study, its removal and calibration, and circuits.

    Args:
        folder: what `skilloc effects` and the commands after it wrote; circuits may lie anywhere in it.
        when: a time to state; without it the same folder gives the same bytes.

    Raises:
        FileNotFoundError: if nothing finished was measured there.
        ValueError: if a part of it was cut or altered.
    """
    folder = Path(folder)
    circuits, examples = find_circuits(folder)
    measured = (folder / "effects").is_dir() or (folder / "manifest.json").is_file()
    study = load_study(folder) if measured or not circuits else None
    parts = []
    title = "circuits"
    if study is not None:
        record = _record(study, folder)
        title = f"What the units of {record['model']} do"
        drawn = _pictures(study, record)
        parts = [_about(record), _top(record, drawn), _local(record, drawn), _between(record, drawn)]
        parts += [_removed(record, drawn), _positioned(record, drawn), _calibrated(record, drawn)]
    if circuits:
        parts.insert(1, _section("Circuits", CIRCUITS, circuit_section(circuits)))
    parts += [other_results(folder), provenance(folder, study, circuits)]
    body = f"<header><h1>{escape(title)}</h1></header>\n<main>\n{chr(10).join(part for part in parts if part)}\n</main>"
    data = circuit_data(circuits, examples) if circuits else None
    return document(title, body, data=data, when=when)


def find_circuits(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the circuits in a folder by name, in the order of their subtasks, and the top examples beside them.

    Raises:
        ValueError: if a circuit or the examples cannot be read.
    """
    found: list[tuple[Path, Any]] = []
    examples: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.json")):
        if (path.parent / "manifest.json").is_file():
            continue  # a result folder: its own files
        if path.parent.name.startswith("run_") and (path.parent.parent / path.name).is_file():
            continue  # of one run; what the runs agree on lies above
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.name == EXAMPLES:
            examples |= _examples(path, text)
        elif '"directed"' in text:
            found.append((path, circuit_graph.load(path)))
    found.sort(key=lambda pair: _place(pair[1].graph))
    circuits: dict[str, Any] = {}
    for path, graph in found:
        name = graph.graph.get(circuit_graph.SUBTASK) or path.stem
        circuits[name if name not in circuits else path.relative_to(folder).with_suffix("").as_posix()] = graph
    return circuits, examples


def _place(about: Mapping[str, Any]) -> int:
    own, every = about.get(circuit_graph.SUBTASK), list(about.get(circuit_graph.SUBTASKS, ()))
    return every.index(own) if own in every else len(every)


def _examples(path: Path, text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} holds no examples ({error}); delete it, or make the circuits again") from error


def _record(study: Study, folder: Path) -> Record:
    effects = study.effects
    most = int(effects.measured.sum()) - 1
    enough = len(effects.values) >= 3 and most >= 1
    held, where = folder / "removal", folder / "positions"
    return {
        **about(effects),
        "top": top_units(effects),
        "locality": locality_record(effects, top=min(10, most)) if enough else None,
        "removal": removal_record(store.load(Removal, held)) if held.is_dir() else None,
        "positions": positions_record(store.load(PositionEffects, where)) if where.is_dir() else None,
        "calibration": calibration_record(study),
        "drawn": effects.made.get("drawn", {}),
    }


def _pictures(study: Study, record: Record) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as aside:
        paths = draw_study(study, record["locality"], record["removal"], Path(aside), record["positions"])
        return {path.stem: picture(path.with_suffix(".svg").read_bytes(), ALT[path.stem]) for path in paths}


def _about(record: Record) -> str:
    drawn = record["drawn"]
    exact = "all exactly" if record["exact"] == record["measured"] else f"{record['exact']:,} of them exactly"
    text = f"{drawn['sequences']} examples per subtask ({drawn['split']} split), " if drawn else ""
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in record["baseline"].items())
    said = (
        f"{record['measured']:,} of {record['units']:,} units were measured, {exact} ({record['method']}, reference "
        f"{record['reference']}), on {text}in {record['folds']} folds. A unit's effect is the loss without it minus "
        f"the loss with it, in {record['unit']}: positive means that the subtask needs the unit. Brackets are 95 % "
        "intervals over folds; “chance” is what units without structure would give."
    )
    return f"<p>{escape(said)}</p>\n<p>{escape(whole_model_words(record))}: {escape(losses)}.</p>"


def _section(title: str, *parts: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{chr(10).join(part for part in parts if part)}</section>"


def _top(record: Record, drawn: Mapping[str, str]) -> str:
    names = record["subtasks"]
    rows = [
        [str(place + 1), *(_unit(record["top"][name][place]) for name in names)]
        for place in range(min(len(record["top"][name]) for name in names))
    ]
    shown = table(["", *names], rows, caption=f"units needed most: effect in {record['unit']} (~ = estimated)")
    return _section("Which units?", shown, drawn.get("units", ""), drawn.get("sorted", ""))


def _unit(unit: Record) -> str:
    score = {end: unit[end] for end in ("value", "low", "high")}
    said = interval(score, 3) if np.isfinite(unit["high"]) else number(unit["value"], 3)
    return f"{unit['unit']} {'' if unit['exact'] else '~'}{said}"


def _local(record: Record, drawn: Mapping[str, str]) -> str:
    found, names = record["locality"], record["subtasks"]
    if found is None:
        return "<p>No locality scores: they need at least 2 measured units in 3 folds.</p>"
    rows = []
    for score, label in ROWS.items():
        cells = [interval(found["scores"][name][score]) for name in names]
        rows.append([label.format(top=found["top"]), *cells, number(found["scores"][names[0]][score]["chance"])])
    words = {"below": "more local than chance", "above": "less local than chance"}
    verdicts = [f"{name} is {compared(found['scores'][name]['effective_number'], **words)}" for name in names]
    said = f"<p>{escape('; '.join(verdicts))}.</p>"
    return _section("How local is each skill?", table(["", *names, "chance"], rows), said, drawn.get("locality", ""))


def _between(record: Record, drawn: Mapping[str, str]) -> str:
    found, names = record["locality"], record["subtasks"]
    if found is None or not found["between"]:
        return ""
    titles = {"overlap": "overlap of effects", "top_jaccard": f"top {found['top']} in common"}
    rows = []
    for a, b in combinations(range(len(names)), 2):
        one = {name: {end: rows[a][b] for end, rows in scores.items()} for name, scores in found["between"].items()}
        cells = [f"{interval(one[name])} (chance {number(one[name]['chance'])})" for name in titles]
        rows.append([f"{names[a]}, {names[b]}", *cells, interval(one["rank_correlation"])])
    shown = table(["", *titles.values(), "rank correlation"], rows)
    return _section("Do they need the same units?", shown, drawn.get("entanglement", ""))


def _removed(record: Record, drawn: Mapping[str, str]) -> str:
    removal = record["removal"]
    if removal is None:
        return ""
    names, units = removal["subtasks"], removal["units"]
    parts = []
    for size, found in removal["sizes"].items():
        ends = {end: np.array(values, dtype=float) for end, values in found["loss_increase"].items()}
        rows = []
        for a, name in enumerate(names):
            one = [{end: values[a, b] for end, values in ends.items()} for b in range(len(names))]
            cells = [f"{interval(cell)}, random {number(cell['chance'])}" for cell in one]
            if "specificity" in found:
                cells.append(interval({end: values[a] for end, values in found["specificity"].items()}))
            rows.append([f"{units} of {name}", *cells])
        columns = ["", *(f"loss of {name}" for name in names), *(["specificity"] if "specificity" in found else [])]
        caption = (
            f"loss increase in {removal['unit']} without the top {size} {units}, beside random ones of the same layers"
        )
        parts.append(table(columns, rows, caption=caption))
    return _section("What is lost without them?", *parts, CHOSEN, drawn.get("removal", ""))


def _positioned(record: Record, drawn: Mapping[str, str]) -> str:
    found = record["positions"]
    if found is None:
        return ""
    shown = min(3, len(found["positions"]))
    parts = []
    for subtask in found["subtasks"]:
        rows = [
            [name, *(f"{place}: {interval(score)}" for place, score in places)]
            for name, places in peaks(found, subtask)
        ]
        caption = f"{subtask}: effect in {found['unit']} when the unit is held at one position only"
        parts.append(table(["", *("most at", "then at", "then at")[:shown]], rows, caption=caption))
    return _section("Where does each unit matter?", *parts, drawn.get("positions", ""))


def _calibrated(record: Record, drawn: Mapping[str, str]) -> str:
    found = record["calibration"]
    if found is None:
        return ""
    first = next(iter(found.values()))
    rows = [
        [name.replace("_", " "), *(interval(one[name]) for one in found.values())]
        for name in ("pearson", "spearman", "relative_error")
    ]
    for name in first["recall"]:
        rows.append(
            [
                f"top {name.replace(' in ', ' found in estimated top ')}",
                *(interval(one["recall"].get(name)) for one in found.values()),
            ]
        )
    for name in sorted(first["missed_mass"], key=int):
        rows.append([f"mass missed beyond {name}", *(interval(one["missed_mass"].get(name)) for one in found.values())])
    said = f"the estimate against {first['measured']:,} exact effects, {first['drawn']:,} of random units"
    return _section(
        "Can the estimate be trusted?", table(["", *found], rows, caption=said), drawn.get("calibration", "")
    )
