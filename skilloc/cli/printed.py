"""Records as tables for the terminal. Rows are scores and columns subtasks, so that three subtasks fit 80 columns."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from skilloc.study.report import Record, interval, loss_words, number, peaks, plain

ABREAST = 4
"""Subtasks side by side in one table, at most."""

WORDS = {
    "effective_number": "effective number",
    "entropy_number": "entropy number",
    "k50": "units for half",
    "k90": "units for 90 %",
    "negative_share": "negative share",
}


def print_json(record: Any) -> None:
    """Print a record as JSON; NaN and infinity become null."""
    print(json.dumps(plain(record), indent=1, ensure_ascii=False))


def print_about(record: Record) -> None:
    """Print what a result is about, in two lines."""
    console = _console()
    measured = f"{record['measured']:,} of {record['units']:,} units"
    where = "" if record["at"] == "all" else f", at {record['at']} positions"
    exact = "all exactly" if record["exact"] == record["measured"] else f"{record['exact']:,} of them exactly"
    console.print(
        f"[bold]{record['model']}[/]: {measured}, {exact} ({record['method']}, reference {record['reference']}{where})",
        highlight=False,
    )
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in record["baseline"].items())
    console.print(f"{escape(loss_words(record))}: {losses} ({record['folds']} folds)\n", highlight=False)


def print_top(record: Record) -> None:
    """Print the units that each subtask needs most, with their effects."""

    def table(subtasks: Sequence[str]) -> Table:
        made = _table(subtasks)
        for place in range(max(len(record["top"][name]) for name in subtasks)):
            made.add_row(str(place + 1), *(_unit(record["top"][name], place) for name in subtasks))
        return made

    title = f"units needed most: effect in {escape(record['unit'])}, ± half its 95 % interval (~ = estimated)"
    _print(title, record["subtasks"], table)


def _unit(units: Sequence[Record], place: int) -> str:
    if place >= len(units):
        return ""
    unit = units[place]
    error = "" if math.isnan(unit["high"]) else f" ± {number(unit['high'] - unit['value'])}"
    return f"{unit['unit']} {'' if unit['exact'] else '~'}{number(unit['value'], 3)}{error}"


def print_calibration(record: Record) -> None:
    """Print how far an estimate can be trusted."""
    found = record["calibration"]
    if found is None:
        return
    first = next(iter(found.values()))

    def table(subtasks: Sequence[str]) -> Table:
        made = _table(subtasks)
        for name in ("pearson", "spearman", "relative_error"):
            made.add_row(name.replace("_", " "), *(scored(found[subtask][name]) for subtask in subtasks))
        for name in first["recall"]:
            label = f"top {name.replace(' in ', ' found in top ')}"
            made.add_row(label, *(scored(found[s]["recall"].get(name)) for s in subtasks))
        for m in first["missed_mass"]:
            made.add_row(f"mass missed beyond {m}", *(scored(found[s]["missed_mass"].get(m)) for s in subtasks))
        return made

    title = f"the estimate against {first['measured']:,} exact effects, {first['drawn']:,} of random units"
    _print(title, list(found), table)


def print_locality(record: Record) -> None:
    """Print the scores of each subtask, then the matrices between subtasks."""
    found = record["scores"]

    def table(subtasks: Sequence[str]) -> Table:
        made = _table([*subtasks, "chance"])
        for name in found[subtasks[0]]:
            scores = [found[subtask][name] for subtask in subtasks]
            words = {**WORDS, "top_share": f"top {record['top']} share", "mass": f"mass ({escape(record['unit'])})"}
            label = words.get(name, name)
            made.add_row(label, *map(scored, scores), number(scores[0]["chance"], 3))
        return made

    _print("how local: score \\[95 % interval]; – = cannot be told from noise", record["subtasks"], table)
    titles = {"overlap": "weighted overlap", "top_jaccard": f"top {record['top']} in common"}
    for name, scores in record["between"].items():
        _print_matrix(titles.get(name, name.replace("_", " ")), record["subtasks"], scores)


def print_removal(record: Record) -> None:
    """Print, per number of removed units, the loss increases beside those of random units, and the scores."""
    for size, scores in record["sizes"].items():
        title = f"top {size} {record['units']} removed: loss increase in {escape(record['unit'])}"
        _print_matrix(title, record["subtasks"], scores["loss_increase"], control="random")
        if "specificity" in scores:  # which a single subtask has not
            _print_specificity(record["subtasks"], scores)


def _print_specificity(subtasks: Sequence[str], scores: Mapping[str, Any]) -> None:
    made = _table(["value \\[95 % interval]", "random"])
    for s, name in enumerate(subtasks):
        one = {end: values[s] for end, values in scores["specificity"].items()}
        made.add_row(f"specificity of {name}", scored(one), number(one["chance"], 3))
    made.add_row("asymmetry", scored(scores["asymmetry"]), number(scores["asymmetry"]["chance"], 3))
    _print("", [""], lambda _: made)


def print_positions(record: Record) -> None:
    """Print, per subtask, its units and the positions where each matters most."""
    places = len(record["positions"])
    shown = min(3, places)
    ordinals = ("most at", "then at", "then at")
    for subtask in record["subtasks"]:

        def table(_: Sequence[str], subtask: str = subtask) -> Table:
            made = _table(ordinals[:shown])
            for name, found in peaks(record, subtask):
                made.add_row(name, *(f"{escape(place)}: {scored(score)}" for place, score in found))
            return made

        title = f"{escape(subtask)}: effect in {escape(record['unit'])} when held at one of {places} positions only"
        _print(f"{title} \\[95 % interval]", [""], table)


def print_spread(record: Record) -> None:
    """Print how far the scores move between references."""
    found = record["scores"]

    def table(subtasks: Sequence[str]) -> Table:
        made = _table(subtasks)
        for name in found[subtasks[0]]:
            ranges = [found[subtask][name]["range"] for subtask in subtasks]
            made.add_row(WORDS.get(name, name.replace("_", " ")), *(number(moved, 3) for moved in ranges))
        return made

    _print(f"largest minus smallest score over the references {', '.join(record['references'])}", list(found), table)


def _print_matrix(title: str, names: Sequence[str], scores: Mapping[str, Any], *, control: str = "chance") -> None:
    """Print values with intervals; the control goes into the title if it is one number, else into the cells."""
    levels = [
        number(scores["chance"][row][column])
        for row in range(len(names))
        for column in range(len(names))
        if row != column and math.isfinite(scores["chance"][row][column])
    ]
    one = len(set(levels)) == 1

    def table(columns: Sequence[str]) -> Table:
        made = _table(columns)
        for row, name in enumerate(names):
            made.add_row(name, *(_cell(scores, row, list(names).index(c), with_control=not one) for c in columns))
        return made

    _print(f"{title} \\[95 % interval]" + (f", {control} {levels[0]}" if one else f" ({control})"), names, table)


def _cell(scores: Mapping[str, Any], row: int, column: int, *, with_control: bool) -> str:
    score = {end: values[row][column] for end, values in scores.items()}
    level = score["chance"]
    return scored(score) + (f" ({number(level)})" if with_control and math.isfinite(level) else "")


def scored(score: Mapping[str, float] | None) -> str:
    """Return a score with its interval, as rich takes it: a bracket that is none of its marks has a backslash."""
    return interval(score, 3).replace("[", "\\[")


def _print(title: str, subtasks: Sequence[str], table: Callable[[Sequence[str]], Table]) -> None:
    """Print a table of some subtasks, in as many parts as the terminal is too narrow for."""
    console = _console()
    unbounded = console.options.update_width(1000)
    for abreast in range(min(ABREAST, len(subtasks)), 0, -1):
        parts = [table(subtasks[i : i + abreast]) for i in range(0, len(subtasks), abreast)]
        if all(console.measure(part, options=unbounded).maximum <= console.width for part in parts):
            break
    if title:
        console.print(title, style="bold")
    for part in parts:
        console.print(part)
    console.print()


def _table(columns: Sequence[str]) -> Table:
    made = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("", *columns):
        made.add_column(column, no_wrap=True, header_style="dim")
    return made


def _console() -> Console:
    """A terminal as wide as it is; a file or a pipe gets whole lines."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)
