"""Where the numbers of a report come from: settings, hashes, versions; and results without a section of their own."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skilloc import store
from skilloc.attribution.measured import Measured
from skilloc.circuits import graph as circuit_graph
from skilloc.report import bounds
from skilloc.report.document import escape, pairs, table
from skilloc.report.relearning import is_attack
from skilloc.report.section import Table

SHOWN = {"request", "effects", "estimate", "exact", "calibration", "removal", "positions", "curve", "report", "history"}
"""Result folders that the report has sections for."""


UNFINISHED = {"items", "runs"}
"""Folders of single measurements, which are joined elsewhere."""


def results_in(folder: Path) -> list[Path]:
    """Return the result folders in a folder, and itself if it is one, without pieces of a measurement."""
    found = [path.parent for path in sorted(folder.rglob("manifest.json")) if _is_result(path)]
    return [
        path for path in found if not UNFINISHED & set(path.relative_to(folder).parts) and ".aside" not in str(path)
    ]


def _is_result(manifest: Path) -> bool:
    """Whether a manifest is that of a result, and not of a saved model."""
    return '"spec.json"' in manifest.read_text(encoding="utf-8", errors="replace")


def attacks_in(folder: Path) -> dict[str, Path]:
    """Return the results of attacks in a folder, by where they lie in it."""
    return {name: path for name, path in _others(folder).items() if is_attack(path)}


def other_results(folder: Path) -> str:
    """Return the plain numbers of results that are no part of the study itself, and no attack."""
    others = []
    for name, path in _others(folder).items():
        rows = tuple(_flat(store.read(path).metrics).items())
        if rows and not is_attack(path):
            summary = f"<summary>{escape(name)}: {len(rows)} numbers</summary>"
            others.append(f"<details>{summary}{table(Table('', ('', 'value'), rows))}</details>")
    return f"<section><h2>Also measured</h2>\n{chr(10).join(others)}</section>" if others else ""


def _others(folder: Path) -> dict[str, Path]:
    found = {path.relative_to(folder).as_posix(): path for path in results_in(folder)}
    return {name: path for name, path in found.items() if name != "." and name.split("/")[0] not in SHOWN}


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(values, Mapping):
        found: dict[str, str] = {}
        for name, value in values.items():
            found |= _flat(value, f"{prefix} {name}".strip())
        return found
    return {prefix: f"{values:.5g}" if isinstance(values, float) else json.dumps(values, ensure_ascii=False)}


def provenance(folder: Path, study: Measured | None, circuits: Mapping[str, Any]) -> str:
    """Return what made everything: settings, digests of model, tokens and reference, versions, hashes of the files."""
    parts = ["<h2>How this was made</h2>"]
    request = folder / "request"
    if request.is_dir():
        parts += ["<h3>Settings</h3>", pairs(_few(store.read(request).spec["settings"]))]
    if study is not None:
        made = dict(study.effects.made)
        parts += [f"<h3>{title}</h3>{pairs(values)}" for title, values in _groups(made).items() if values]
    for name, graph in circuits.items():
        kept = {
            key: _few(graph.graph.get(key))
            for key in (
                circuit_graph.CHOSEN,
                circuit_graph.REFERENCE,
                circuit_graph.MODEL,
                circuit_graph.BASELINE,
                circuit_graph.FLOOR,
                circuit_graph.MADE,
            )
            if graph.graph.get(key)
        }
        parts.append(f"<details><summary>circuit {escape(name)}</summary>{pairs(kept)}</details>")
    rows = [_file(folder, path) for path in results_in(folder)]
    if rows:
        columns = ("folder", "holds", "key of what was asked", "sha256 of its manifest")
        parts.append(table(Table("files", columns, tuple(rows))))
    return f"<section>{chr(10).join(parts)}</section>"


def _groups(made: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    made = _few(made)
    drawn = dict(made.get("drawn", {}))
    sources = drawn.pop("subtasks", {})
    names = ("tokens", "versions", "drawn", "units", "name")
    rest = {name: value for name, value in made.items() if name not in names}
    return {
        "Model and method": {"name": made.get("name"), **rest},
        "Examples": drawn,
        "Digests of the examples": made.get("tokens", {}),
        "Sources": sources,
        "Versions": made.get("versions", {}),
    }


def _few(values: Any) -> Any:
    """Return values of which mappings and lists have their first entries only, and say how many more there are."""
    more = len(values) - bounds.SUBTASKS if isinstance(values, Mapping | list | tuple) else 0
    if isinstance(values, Mapping):
        found = {name: _few(value) for name, value in list(values.items())[: bounds.SUBTASKS]}
        return {**found, "…": f"{more:,} more in the files"} if more > 0 else found
    if isinstance(values, list | tuple):
        return [_few(value) for value in values[: bounds.SUBTASKS]] + (
            [f"… {more:,} more in the files"] if more > 0 else []
        )
    return values


def _file(folder: Path, path: Path) -> tuple[str, ...]:
    spec = store.read(path).spec
    digest = hashlib.sha256((path / "manifest.json").read_bytes()).hexdigest()[:16]
    return path.relative_to(folder).as_posix(), str(spec.get("what", "")), store.key(spec), digest
