"""The report: everything that was measured in a folder, as one page that a colleague can judge without installing."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from skilloc import store
from skilloc.circuits import graph as circuit_graph
from skilloc.circuits.comparison import Comparison
from skilloc.circuits.graph import EXAMPLES, SHOWN
from skilloc.mistakes import WrongValue
from skilloc.report import comparison, markdown
from skilloc.report.bounds import CIRCUITS
from skilloc.report.circuits import circuits_section
from skilloc.report.circuits_found import circuits_found
from skilloc.report.document import body_of, document, escape, write
from skilloc.report.findings import Findings, check_circuits, read_findings, sections_of, title_of
from skilloc.report.made import made_in
from skilloc.report.panel import LISTED, circuit_data, panel
from skilloc.report.pictures import save_pictures
from skilloc.report.provenance import other_results, provenance
from skilloc.report.words import explained


class Beside(NamedTuple):
    """What was traced in a folder.

    Attributes:
        circuits: by name, in the order of their subtasks; of very many the first.
        examples: what excites each unit most.
        shown: prompts with what units do on them, and the tokens that neurons push.
        every: number of circuits that there are.
    """

    circuits: dict[str, Any]
    examples: dict[str, Any]
    shown: dict[str, Any]
    every: int


def report_page(folder: Path, *, when: str | None = None) -> str:
    """Return a page about everything in a folder: the study, its removal and calibration, attacks, and circuits last.

    Args:
        folder: what `skilloc effects` and the commands after it wrote, or one of these alone; circuits may lie anywhere
            in it.
        when: a time to state; without it the same folder gives the same bytes.

    Raises:
        FileNotFoundError: if nothing finished was measured there.
        ValueError: if a part of it was cut or altered.
    """
    folder = Path(folder)
    circuits, examples, shown, every = find_circuits(folder)
    measured = (folder / "effects").is_dir() or (folder / "manifest.json").is_file()
    made = [] if measured else made_in(folder)[1]
    found = read_findings(folder) if measured or not (circuits or made) else None
    if found is not None:
        check_circuits(folder, circuits, found.study.effects)
    elif not made:
        _check_no_study_below(folder)
    title = title_of(found) if found is not None else f"What became of {folder.name}" if made else "circuits"
    told = circuits_found(circuits, None if found is None else found.study.effects, n=LISTED, every=every)
    sections = made if found is None else sections_of(found, told)
    if circuits:
        sections.append(circuits_section(told, every=True))
    sections = explained(sections)
    parts = [body_of(section) for section in (sections[:-1] if circuits else sections)]
    parts += [panel(sections[-1], circuits, shown)] if circuits else []
    parts += [other_results(folder), provenance(folder, None if found is None else found.study, circuits)]
    body = f"<header><h1>{escape(title)}</h1></header>\n<main>\n{chr(10).join(part for part in parts if part)}\n</main>"
    return document(title, body, data=circuit_data(circuits, examples, shown) if circuits else None, when=when)


def _check_no_study_below(folder: Path) -> None:
    """Refuse a folder of studies: their circuits are about other models and examples, each its own."""
    below = sorted({path.parent.parent for path in folder.rglob("effects/manifest.json")})
    if below:
        names = ", ".join(path.relative_to(folder).as_posix() for path in below[:5])
        raise WrongValue(f'"{folder}" is no study, but holds {names}; name one of these')


@store.working("folder", inside=True)
def write_report(folder: Path) -> Findings:
    """Write what a folder holds as `report.html` and `summary.md`, with its `pictures/`; return what was found.

    Both say the same, since both are the same sections.
    """
    circuits, _, _, every = find_circuits(folder)
    found = read_findings(folder)
    check_circuits(folder, circuits, found.study.effects)
    told = circuits_found(circuits, found.study.effects, every=every)
    sections = [*sections_of(found, told), *([circuits_section(told)] if circuits else [])]
    save_pictures([picture for section in sections for picture in section.pictures], folder / "pictures")
    store.write_file(folder / "summary.md", store.with_seal(markdown.page(title_of(found), explained(sections))))
    write(folder / "report.html", report_page(folder))
    return found


@store.working("folder", inside=True)
def write_comparison(found: Comparison, folder: Path) -> None:
    """Write a comparison: the result itself, and what it says as `compare.html` and `compare.md`.

    Raises:
        ValueError: if the folder holds something else.
    """
    own = {"comparison", "pictures", "compare.md", "compare.html"}
    if any(path.name not in own and not path.name.startswith(".") for path in folder.glob("*")):
        raise WrongValue(f'"{folder}" holds other files; choose an empty or a new folder for `out`')
    sections = explained(comparison.comparison_sections(found))
    title = comparison.title_of(found)
    store.save(found, folder / "comparison")
    save_pictures([picture for section in sections for picture in section.pictures], folder / "pictures")
    store.write_file(folder / "compare.md", store.with_seal(markdown.page(title, sections)))
    parts = "\n".join(body_of(section) for section in sections)
    body = f"<header><h1>{escape(title)}</h1></header>\n<main>\n{parts}\n</main>"
    write(folder / "compare.html", document(title, body))


def find_circuits(folder: Path) -> Beside:
    """Return the circuits in a folder, with the examples and prompts beside them.

    Raises:
        ValueError: if a circuit or the examples cannot be read.
    """
    found: list[tuple[Path, Any]] = []
    examples: dict[str, Any] = {}
    shown: list[dict[str, Any]] = []
    every = 0
    for path in sorted(folder.rglob("*.json")):
        if (path.parent / "manifest.json").is_file():
            continue  # a result folder: its own files
        if path.parent.name.startswith("run_") and (path.parent.parent / path.name).is_file():
            continue  # of one run; what the runs agree on lies above
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.name == EXAMPLES:
            examples |= _of_units(path, text)
        elif path.name == SHOWN:
            shown.append(_of_units(path, text))
        elif '"directed"' in text:
            # One after the other, and only the first are kept: all of very many need not fit in memory.
            every += 1
            found = sorted([*found, (path, circuit_graph.load(path))], key=lambda pair: _place(pair[1].graph))[
                :CIRCUITS
            ]
    circuits: dict[str, Any] = {}
    for path, graph in found:
        name = graph.graph.get(circuit_graph.SUBTASK) or path.stem
        circuits[name if name not in circuits else path.relative_to(folder).with_suffix("").as_posix()] = graph
    return Beside(circuits, examples, _together(shown), every)


def _place(about: Mapping[str, Any]) -> int:
    own, every = about.get(circuit_graph.SUBTASK), list(about.get(circuit_graph.SUBTASKS, ()))
    return every.index(own) if own in every else len(every)


def _together(shown: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what units do on prompts as one record, each prompt once, with the units of all."""
    prompts: dict[str, dict[str, Any]] = {}
    pushes: dict[str, Any] = {}
    for one in shown:
        pushes |= one["pushes"]
        for prompt in one["prompts"]:
            own = prompts.setdefault(json.dumps([prompt["subtask"], prompt["tokens"], prompt["asked"]]), dict(prompt))
            for part in ("activations", "attention"):
                own[part] = {**own[part], **prompt[part]}
    return {"prompts": list(prompts.values()), "pushes": pushes} if shown else {}


def _of_units(path: Path, text: str) -> dict[str, Any]:
    try:
        return store.unsealed(dict(json.loads(text)), str(path))
    except (ValueError, TypeError) as error:
        raise WrongValue(f"{path} holds no examples ({error}); make the circuits again, in another folder") from error
