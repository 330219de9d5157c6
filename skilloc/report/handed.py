"""The card of a narrow model that is handed over: what was kept and removed, sizes, times, the verdict, the steps."""

import math
from collections.abc import Mapping
from typing import Any

from skilloc.locality.intervals import number
from skilloc.pruning.handed import HandedOver, Made
from skilloc.pruning.results import Localized, Pruned
from skilloc.report import markdown
from skilloc.report.section import Cell, Section, Table, listed

UNASKED = (
    "Nobody attacked it: whether what was not kept is removed, or only hidden, is not known. `skilloc relearn ORIGINAL "
    "MODEL --attack NAME` asks."
)


def handed_sections(found: HandedOver) -> tuple[Section, ...]:
    """Return what is said about a narrow model: what it is, its verdict, its losses, how it was made."""
    return _sizes(found), _verdict(found), _losses(found), _steps(found)


def card(found: HandedOver) -> str:
    """Return the model card: a head for the hub, how to open it, and all sections."""
    head = f"---\nlibrary_name: transformers\npipeline_tag: text-generation\nbase_model: {found.name}\n"
    head += "tags:\n- skilloc\n- pruned\n---\n\n"
    opened = f"    from transformers import {found.kind}, AutoTokenizer\n\n"
    opened += f"    model = {found.kind}.from_pretrained(FOLDER)\n"
    opened += "    tokenizer = AutoTokenizer.from_pretrained(FOLDER)\n"
    text = markdown.page(f"{found.name}, narrow", handed_sections(found))
    title, _, rest = text.partition("\n\n")
    return f"{head}{title}\n\n{opened}\n{rest}"


def _sizes(found: HandedOver) -> Section:
    before, after = found.parameters
    sentences = [
        f"Made of {found.name} (weights {found.original}); its own weights are {found.model}.",
        f"Opened again by plain transformers, its logits differ by at most {found.difference:.1g} of the largest.",
    ]
    if found.stored > after:
        sentences.append(
            f"Its layers are not equally wide; {found.stored - after:,} zeros fill them up, which plain transformers "
            "needs. They take room and time, and do nothing."
        )
    if found.gguf is not None:
        sentences.append(
            f"No GGUF file: {found.gguf.why}."
            if found.gguf.why
            else f"model.gguf holds the same ({found.gguf.bytes / 1e6:,.1f} MB; logits differ by at most "
            f"{found.gguf.difference:.1g} of the largest)."
        )
    rows: list[tuple[Cell, ...]] = [(f"units: {kind}", *counts) for kind, counts in found.units.items()]
    rows += [("parameters", before, after), ("parameters in the file", before, found.stored)]
    rows += [("MB of weights", *(round(size / 1e6, 2) for size in found.bytes))]
    times = tuple((f"{one.tokens} tokens", one.before, one.after, one.ratio) for one in found.latency)
    return Section(
        "What it is",
        tuple(sentences),
        (
            Table("sizes", ("", "original", "narrow"), tuple(rows)),
            Table(
                f"milliseconds of a pass in plain transformers ({found.place}), medians of passes in turn; their ratio "
                "with its 95 % interval",
                ("a pass over", "original", "narrow", "narrow / original"),
                times,
            ),
        ),
    )


def _verdict(found: HandedOver) -> Section:
    said = tuple(sentence for one in found.verdicts for sentence in one.sentences)
    words = [f"{one.attacked}: {one.word}" for one in found.verdicts]
    return Section("Is the rest gone?", (*words, *said) or (UNASKED,))


def _losses(found: HandedOver) -> Section:
    tables = tuple(_table(one.found) for one in found.made)
    last = found.made[-1].found
    kept = _kept(last)
    others = [name for name in last.subtasks if name not in kept]
    sentences = [f"Kept: {listed(kept)}."]
    sentences.append(f"Not kept: {listed(others)}." if others else "Nothing else was measured.")
    return Section("What was kept, and what was not", tuple(sentences), tables)


def _kept(found: Pruned | Localized) -> list[str]:
    if isinstance(found, Pruned):
        return list(found.kept_for)
    return [name for name, one in found.subtasks.items() if one.kept]


def _table(found: Pruned | Localized) -> Table:
    if isinstance(found, Pruned):
        rows = tuple((name, *one["loss"]) for name, one in found.subtasks.items())
        caption = f"pruned: loss in {found.unit} on the {found.split} split, with 95 % intervals"
        return Table(caption, ("subtask", "before", "after", "random units"), rows)
    changes = tuple((name, one.before, one.after, one.change) for name, one in found.subtasks.items())
    caption = f"localized: loss in {found.unit} on the report split, the change with its 95 % interval"
    return Table(caption, ("subtask", "before", "after", "change"), changes)


def _steps(found: HandedOver) -> Section:
    sentences = [_step(one) for one in found.made]
    with_them = ", ".join(f"{name} {value}" for name, value in found.versions.items())
    tables = tuple(
        Table(f"settings: {_name(one)}", ("setting", "value"), _settings(one.settings)) for one in found.made
    )
    return Section("How it was made", (*sentences, f"Written with {with_them}."), tables)


def _name(made: Made) -> str:
    return "pruned" if isinstance(made.found, Pruned) else "localized"


def _step(made: Made) -> str:
    one = made.found
    if isinstance(one, Pruned):
        zeros = f", and {one.zeros:,} more as zeros" if one.zeros else ""
        return f"Pruned: {one.kept:,} of {one.units:,} units kept{zeros}, for {listed(one.kept_for)}."
    steps = int(one.history.of("step")[-1])
    if made.settings.get("strength") == 0:
        kept = [name for name, change in one.subtasks.items() if change.kept]
        return f"Finetuned on {listed(kept)}, without a penalty: {steps:,} steps."
    return f"Localized: {sum(one.live.values()):,} of {sum(one.units.values()):,} units live after {steps:,} steps."


def _settings(settings: Mapping[str, Any]) -> tuple[tuple[Cell, ...], ...]:
    return tuple((name, _value(value)) for name, value in settings.items() if value not in (None, [], {}, ""))


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_value(one)}" for name, one in value.items() if one not in (None, [], {}, ""))
    if isinstance(value, list | tuple):
        return ", ".join(map(_value, value))
    return number(value, 4) if isinstance(value, float) and math.isfinite(value) else str(value)
