"""How far estimates can be trusted: attribution against exact effects."""

from skilloc.attribution.calibration import Calibration
from skilloc.attribution.measured import Compared
from skilloc.effects import Effects
from skilloc.locality.intervals import Interval, number
from skilloc.report import pictures
from skilloc.report.section import Cell, Picture, Section, Table

SINGLE = {"spearman": "Spearman", "relative_error": "relative error", "pearson": "Pearson"}
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


def calibration_section(found: dict[str, Calibration], effects: Effects | None, compared: Compared | None) -> Section:
    """Return how the estimate compares with exact effects, by subtask.

    Args:
        found: by subtask.
        effects: what the picture is drawn of, with `compared`; no picture if not given.
        compared: the estimate and the exact effects.
    """
    names, first = tuple(found), next(iter(found.values()))
    rows: list[tuple[Cell, ...]] = [
        (label, *(getattr(found[s], name) for s in names)) for name, label in SINGLE.items()
    ]
    for key in first.recall:
        label = f"top {key.replace(' in ', ' found in estimated top ')}"
        rows.append((label, *(found[s].recall.get(key, UNKNOWN) for s in names)))
    caption = f"the estimate against {first.measured:,} exact effects, {first.drawn:,} of random units"
    drawn: tuple[Picture, ...] = ()
    if effects is not None and compared is not None:
        alt = "estimated against exact effects"
        drawn = (Picture("calibration", alt, lambda: pictures.calibration(effects, compared)),)
    table = Table(caption, ("agreement", *names), tuple(rows))
    return Section("Could gradients have told?", (calibration_words(found),), (table,), drawn)


def calibration_words(found: dict[str, Calibration]) -> str:
    """Say how well estimates and exact effects agree, over all subtasks."""
    values = sorted(one.spearman.value for one in found.values())
    span = number(values[0]) if len(values) == 1 else f"{number(values[0])} to {number(values[-1])}"
    return (
        "Effects estimated from gradients (attribution, one forward and a few backward passes) and exact ones of "
        f"random units have a rank correlation (Spearman) of {span}."
    )
