"""Words of a page that are not everyday, each explained where it first stands."""

import re
from collections.abc import Sequence
from dataclasses import replace

from skilloc.report.section import Section

WORDS: dict[str, str] = {
    "unit": "a part of the model that can be taken away by itself: a neuron, an attention head, a layer",
    "neuron": "one of the numbers inside a block of the model's multilayer perceptrons (MLPs)",
    "head": "one of the attention mechanisms of a layer, which move information between tokens",
    "subtask": "a kind of examples that losses are measured on, such as the text of one programming language",
    "twin": "the same prompt with something changed, so that another answer is right",
    "skill": "what the model does to have a low loss on a subtask",
    "loss": "a number per example that grows as the model gets worse",
    "accuracy": "the share of prompts that the model answers rightly",
    "nats": "the unit of cross-entropy: a loss of 1 nat means that what came next had probability 1/e, about 0.37",
    "token": "a piece of text, a word or less, that the model reads as one",
    "effect": "the loss without a unit minus the loss with it: positive where the subtask needs the unit",
    "held": "taken away, without touching weights: the unit's value is replaced by its reference",
    "reference": "the value that stands in for a unit that is taken away, such as zero or its mean over other text",
    "exactly": "by running the model without the unit, and not estimated from gradients",
    "estimate": "an effect computed from gradients, without running the model without the unit",
    "ablation": "measuring effects by taking units away",
    "two-stage": "estimates of all effects, and exact ones of the units whose estimates are largest",
    "split": "one of three disjoint parts of the documents: train, selection, report",
    "fold": "one of the disjoint parts of the examples; how a number moves between folds gives its interval",
    "interval": "in brackets, after a number: in 95 of 100 repetitions with other examples it would hold the true one",
    "chance": "the same number where there is no structure, such as for effects that are all noise",
    "mass": "all positive effects added up",
    "effective number": "how many units would carry the subtask if all carried the same: 1 = one unit carries all",
    "units for": "the fewest units whose effects add up to half, or to 90 %, of all positive effects",
    "share of top": "the share of all positive effects that the largest so many have",
    "entropy number": "another effective number, less swayed by the largest units",
    "locality": "1 = one unit carries all of a subtask, 0 = all units carry the same",
    "hoyer": "a score like locality: 1 = one unit, 0 = all alike",
    "gini": "a score of inequality: 1 = one unit carries all, 0 = all alike",
    "harmful": "of a unit: the loss falls when it is taken away; of all effects, by magnitude, their share",
    "reliability": "how much of a number is no noise: 1 all, 0 nothing",
    "overlap": "of the effects of two subtasks: 1 = the same units in the same proportions, 0 = no unit in common",
    "rank correlation": "whether two subtasks order the units alike: 1 = the same order, 0 = unrelated",
    "random": "for units: drawn by chance, as many and from the same layers",
    "specificity": "how much more a subtask loses than the others, on average, when its own top units are gone",
    "asymmetry": "0 = two subtasks lose as much by each other's units, 1 = only one of them does",
    "curvature": "what gradients of second order add to an estimate",
    "Pearson": "correlation of estimated and exact effects: 1 = on a line; stated only where all effects are exact",
    "Spearman": "correlation of the ranks of estimated and exact effects: 1 = the same order",
    "relative error": "sum of all errors over the sum of all exact effects, by magnitude: 1 = no better than 0",
    "position": "a place in the row of tokens",
    "attack": "all that is tried to get a removed skill back: retraining at several rates, for a few or many steps",
    "damage": "what the kept subtasks have lost, as a share of what the original model knows of them",
    "information removed": "1 = the attack helps the model no more than a network that never knew; 0 = as the original",
    "area": "what the attack leaves of the lost skill, averaged over its steps",
    "circuit": "units that are claimed to carry a subtask, and the edges along which they feed each other",
    "edge": "how much the loss is lowered by what one unit gives another, or how much of its effect passes there",
    "blind": "of a circuit: with inputs that say nothing, so that it does the same whatever the example is",
    "keep": "of a circuit: faithfulness, the share of the skill that is left when all units outside it are taken away",
    "lost without it": "completeness: the share of the skill that is gone when the units of the circuit are taken away",
    "parameters": "the weights and biases of the model",
    "live": "of a unit: with weights that are not all zero",
}
"""In the order in which a list of several of them is told."""


def explained(sections: Sequence[Section]) -> list[Section]:
    """Return sections that explain each word of `WORDS` in the first of them that has it."""
    seen: set[str] = set()
    found = []
    for section in sections:
        text = section.text()
        new = [word for word in WORDS if word not in seen and pattern(word).search(text)]
        seen |= set(new)
        found.append(replace(section, words=tuple((word, WORDS[word]) for word in new)))
    return found


def pattern(word: str) -> re.Pattern[str]:
    """Return what finds a word in a text, in the singular or the plural."""
    stem = re.escape(word.removesuffix("s"))
    return re.compile(rf"(?<![\w`/]){stem}(s|d)?(?![\w`])", re.IGNORECASE)
