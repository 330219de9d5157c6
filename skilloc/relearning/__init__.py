"""Relearning: is a skill that was pruned away removed, hidden, or is the network broken?

`relearn_probe` retrains the pruned model and its controls under one attack; `verdicts` and `record` say what it found.
"""

from skilloc.relearning.controls import randomly_pruned, relearn_controls, untrained
from skilloc.relearning.curves import area, envelope, steps_to_recover
from skilloc.relearning.probe import relearn_probe
from skilloc.relearning.record import record, summary
from skilloc.relearning.result import Relearning, over_seeds
from skilloc.relearning.settings import CONTROLS, NEVER, ORIGINAL, PLAIN, RANDOM, UNSEEN, Grid
from skilloc.relearning.verdict import Verdict, damage, information_removed, verdict, verdicts

__all__ = [
    "CONTROLS",
    "NEVER",
    "ORIGINAL",
    "PLAIN",
    "RANDOM",
    "UNSEEN",
    "Grid",
    "Relearning",
    "Verdict",
    "area",
    "damage",
    "envelope",
    "information_removed",
    "over_seeds",
    "randomly_pruned",
    "record",
    "relearn_controls",
    "relearn_probe",
    "steps_to_recover",
    "summary",
    "untrained",
    "verdict",
    "verdicts",
]
