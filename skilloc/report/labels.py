"""How tables, pictures and sentences call the scores: each by one name."""

LABELS = {
    "mass": "mass ({unit})",
    "top_share": "share of top {top}",
    "k50": "units for half",
    "k90": "units for 90 %",
    "negative_share": "harmful share",
    "overlap": "overlap of effects",
    "top_jaccard": "top {top} in common",
}
"""Scores that are not called by their own names."""


def label(score: str, *, top: int, unit: str = "") -> str:
    """Return what a score is called.

    Args:
        score: its name.
        top: number of units that count as a subtask's top.
        unit: of the loss.
    """
    return LABELS.get(score, score.replace("_", " ")).format(top=top, unit=unit)
