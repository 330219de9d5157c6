"""Relearning: is a skill that was pruned away removed, hidden, or is the network broken?

`relearn_probe` retrains the pruned model and its controls under one attack; `verdicts` and `record` say what it found.
"""

from skilloc.relearning.brought import Reading, readings, reference_of
from skilloc.relearning.controls import never_saw_like, randomly_pruned, relearn_controls, untrained
from skilloc.relearning.curves import area, envelope, steps_to_recover
from skilloc.relearning.plasticity import unseen_parity, with_plasticity
from skilloc.relearning.probe import relearn_probe
from skilloc.relearning.record import record
from skilloc.relearning.result import Relearning, over_seeds
from skilloc.relearning.rules import WORDS, Removed, Verdict, damage, information_removed, plasticity_of
from skilloc.relearning.settings import CONTROLS, NEVER, ORIGINAL, PLAIN, RANDOM, UNSEEN, Grid
from skilloc.relearning.told import Told, summary, tell
from skilloc.relearning.verdict import verdict, verdicts
from skilloc.relearning.ways import PLAIN_WAYS, WAYS, Way

__all__ = [
    "CONTROLS",
    "NEVER",
    "ORIGINAL",
    "PLAIN",
    "PLAIN_WAYS",
    "RANDOM",
    "UNSEEN",
    "WAYS",
    "WORDS",
    "Grid",
    "Reading",
    "Relearning",
    "Removed",
    "Told",
    "Verdict",
    "Way",
    "area",
    "damage",
    "envelope",
    "information_removed",
    "never_saw_like",
    "over_seeds",
    "plasticity_of",
    "randomly_pruned",
    "readings",
    "record",
    "reference_of",
    "relearn_controls",
    "relearn_probe",
    "steps_to_recover",
    "summary",
    "tell",
    "unseen_parity",
    "untrained",
    "verdict",
    "verdicts",
    "with_plasticity",
]
