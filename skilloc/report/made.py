"""Folders of what was made from a study, or done to it: a pruned, a localized, an attacked model."""

from pathlib import Path

from skilloc import store
from skilloc.pruning import Curve
from skilloc.pruning.reading import load_localized, load_pruned
from skilloc.pruning.results import Localized, Pruned
from skilloc.relearning import Relearning
from skilloc.report.provenance import attacks_in
from skilloc.report.pruning import localized_section, pruning_section
from skilloc.report.relearning import attack_section
from skilloc.report.section import Section

Became = Pruned | Localized | Relearning


def made_in(folder: Path) -> tuple[dict[str, Became], list[Section]]:
    """Return the results of a folder that holds no study but what came of one, by name, and what is said of them.

    Raises:
        ValueError: if a part of it was cut or altered.
    """
    request = folder / "request"
    what = store.read(request).spec.get("what") if request.is_dir() else None
    if what == "pruning" and (folder / "report").is_dir():
        pruned = load_pruned(folder)
        return {"pruned": pruned}, [pruning_section(pruned, store.load(Curve, folder / "curve"))]
    if what == "localization" and (folder / "history").is_dir():
        localized = load_localized(folder)
        return {"localized": localized}, [localized_section(localized)]
    if what == "relearning study":
        attacks = {name: store.load(Relearning, path) for name, path in attacks_in(folder).items()}
        return dict(attacks), [attack_section(one, name) for name, one in attacks.items()]
    return {}, []
