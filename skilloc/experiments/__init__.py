"""The experiments that a sweep's configuration may name: cell functions, with their settings.

A configuration can name these and nothing else, so reading one never runs code that it brings along.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from skilloc.experiments.circuit_hierarchy import CircuitHierarchy
from skilloc.experiments.corpus_circuits import CorpusCircuits
from skilloc.experiments.embedded_unlearning import EmbeddedUnlearning
from skilloc.experiments.parity import ParityTraining
from skilloc.experiments.penalties import PenaltyRuns
from skilloc.experiments.token_budget import TokenBudget


@dataclass(frozen=True)
class Experiment:
    """What a configuration's `experiment` stands for.

    Attributes:
        cell: import path `module:function` of the cell function; imported only where cells run.
        settings: frozen dataclass of the spec.
        about: one line.
    """

    cell: str
    settings: type[Any]
    about: str


EXPERIMENTS: Mapping[str, Experiment] = MappingProxyType(
    {
        "parity-training": Experiment(
            "skilloc.experiments.parity:train_parity",
            ParityTraining,
            "a network trained in a parity world, with its history and weights",
        ),
        "circuit-hierarchy": Experiment(
            "skilloc.experiments.circuit_hierarchy:measure_hierarchy",
            CircuitHierarchy,
            "circuits of atoms and of their composite in one network, and what they share",
        ),
        "corpus-circuits": Experiment(
            "skilloc.experiments.corpus_circuits:measure_circuits",
            CorpusCircuits,
            "circuits of some corpora in a language model, and what they keep of the skill",
        ),
        "embedded-unlearning": Experiment(
            "skilloc.experiments.embedded_unlearning:unlearn",
            EmbeddedUnlearning,
            "a language model pruned to some corpora in two ways, and attacked with the others beside controls",
        ),
        "penalties": Experiment(
            "skilloc.experiments.penalties:compare_penalty",
            PenaltyRuns,
            "a parity network localized to one subtask with a penalty and a solver, at several kept losses",
        ),
        "token-budget": Experiment(
            "skilloc.experiments.token_budget:measure_budget",
            TokenBudget,
            "how effects and locality scores of a language model settle as more text is used",
        ),
    }
)
