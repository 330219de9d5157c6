"""Circuits as tables for the terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from skilloc.cli.tables import scored
from skilloc.study.report import Record, number

WORDS = {
    "faithfulness": "kept",
    "random": "kept by random",
    "completeness": "lost without",
    "completeness_random": "lost without random",
}


def print_circuits(record: Record) -> None:
    """Print, per subtask, what the circuit keeps by size and its strongest units and edges; then what they share."""
    console = Console(highlight=False)
    console = console if console.is_terminal else Console(highlight=False, width=160)
    for name, circuit in record["subtasks"].items():
        kinds = " and ".join(f"{count:,} {kind}s" for kind, count in circuit["kinds"].items() if count)
        console.print(f"[bold]{name}[/]: {circuit['chosen']}: {kinds}, {circuit['edges']:,} edges")
        if circuit["curve"]:
            console.print("share of the skill that is kept by the circuit alone, and lost without it \\[95 % interval]")
            console.print(_curve(circuit["curve"], circuit["size"]))
        console.print(_strongest(circuit))
        console.print()
    if "overlap" in record:
        console.print("units in common: in both / in either (range of 95 % of random circuits)", style="bold")
        console.print(_overlap(record["overlap"]))


def _curve(curve: Sequence[Record], size: int) -> Table:
    made = _table(["units", *WORDS.values()])
    for record in curve:
        mark = " *" if record["size"] == size else ""
        made.add_row(f"{record['size']:,}{mark}", *(scored(interval(record, name)) for name in WORDS))
    return made


def interval(record: Record, name: str) -> dict[str, float]:
    """Return a share of a curve's record with its interval; NaN where there is none."""
    ends = "" if name == "faithfulness" else f"{name}_"
    keys = {"value": name, "low": f"{ends}low", "high": f"{ends}high"}
    return {part: math.nan if record[key] is None else record[key] for part, key in keys.items()}


def _strongest(circuit: Record) -> Table:
    effect = f"effect ({circuit['unit']})"
    made = _table(["strongest units", effect, "adds to the circuit", "strongest edges", effect])
    units, edges = circuit["strongest_units"], circuit["strongest_edges"]
    for i in range(max(len(units), len(edges))):
        unit, edge = (rows[i] if i < len(rows) else None for rows in (units, edges))
        made.add_row(
            unit["name"] if unit else "", _with_error(unit, "effect"), _with_error(unit, "adds"),
            edge["name"] if edge else "", _with_error(edge, "effect"),
        )  # fmt: skip
    return made


def _with_error(entry: Mapping[str, Any] | None, part: str) -> str:
    if entry is None or part not in entry:
        return ""
    found = entry[part]
    error = "" if found["high"] is None else f" ± {number(found['high'] - found['value'])}"
    return f"{number(found['value'], 3)}{error}"


def _overlap(found: Record) -> Table:
    names = found["names"]
    made = _table(["", *names])
    for a, name in enumerate(names):
        cells = [
            "1" if a == b
            else f"{number(found['jaccard'][a][b])} "
            f"({number(found['chance_low'][a][b])} to {number(found['chance_high'][a][b])})"
            for b in range(len(names))
        ]  # fmt: skip
        made.add_row(name, *cells)
    return made


def _table(columns: Sequence[str]) -> Table:
    made = Table(box=None, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(column, no_wrap=True, header_style="dim")
    return made
