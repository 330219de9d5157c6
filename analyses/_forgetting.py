"""What a language model is to forget, the sibling that never saw it, and the attack that tries to get it back."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from _behaviours import FACTS
from _narrow import Text, opened_text
from skilloc.experiment import losses
from skilloc.models.language import ASSETS, encoder, first_token, open_model
from skilloc.relearning import PLAIN_WAYS, WAYS, Grid, Relearning, relearn_probe
from skilloc.relearning.ways import FEW
from skilloc.study.draws import subtasks_of
from skilloc.tasks import Split, Subtask
from skilloc.tasks.asked import Asked
from skilloc.tasks.behaviours import behaviours
from skilloc.tasks.losses import RIGHT
from skilloc.tasks.prompts import prompts
from skilloc.tasks.reading import read_rows

Kind = Literal["corpus", "relation", "behaviour", "questions"]
"""Running text; facts of one relation; what is made from word lists; or somebody's own questions, in a file."""

QUESTION = "question"
"""Field of the question, in files of the forms of WMDP (`choices`, `answer`) and of TOFU (`answer`)."""


class Forget(NamedTuple):
    """What is to be forgotten.

    Attributes:
        kind: what it is.
        source: of a corpus or of questions, as `tasks.reading` reads it; else the name of the relation or behaviour.
        never: a model of the same shape and recipe that never saw it; "" where nobody trained one.
    """

    kind: Kind
    source: str
    never: str = ""

    @property
    def name(self) -> str:
        """How results call it."""
        return Path(self.source).stem.replace(" ", "_")


def without(corpus: str) -> str:
    """Return the sibling of the embedded model that never saw a corpus, if it comes with the package; else ""."""
    name = f"embedded-without-{corpus}"
    return name if (ASSETS / name).is_dir() else ""


@lru_cache(maxsize=2)
def sibling(name: str) -> nn.Module:
    """Open a model that never saw something, once per worker."""
    opened: nn.Module = open_model(name).model
    return opened


def why_not(forget: Forget) -> str:
    """Return why nothing can be compared; "" where it can."""
    if forget.never:
        return ""
    return f"there is no model of this shape and recipe that never saw {forget.name}"


@lru_cache(maxsize=16)
def forgotten(text: Text, forget: Forget) -> Subtask:
    """Return a forget set as a subtask, in the tokens of the model that keeps a text; read once per worker.

    Raises:
        ValueError: if there is no such behaviour, or no row of a file has a question and an answer.
    """
    opened = opened_text(text)[0]
    encode, first = encoder(opened.tokenizer), first_token(opened.tokenizer)
    if forget.kind == "behaviour":
        return behaviours(encode, [forget.source], first=first)[forget.source]
    if forget.kind == "relation":
        asked = Asked(prompt="prompt", group="relation", subject="subject")
        return prompts(str(FACTS), encode, asked, name="fact", first=first)[f"fact_{forget.name}"]
    form = form_of(forget.source) if forget.kind == "questions" else None
    return subtasks_of(opened, {forget.name: forget.source}, length=text.length, asked=form)[forget.name]


def form_of(source: str) -> Asked:
    """Return how the questions of a file are put: options by their letters, as lm-eval does; else with the answer."""
    if "choices" in read_rows(source, (QUESTION,)).fields:
        return Asked(prompt=QUESTION, choices="choices", by="letter")
    return Asked(prompt=QUESTION, template="Question: {prompt}\nAnswer:")


@dataclass(frozen=True)
class Attack:
    """All that is tried to get it back: every way of the house, at these rates and budgets."""

    rates: tuple[float, ...] = (4e-4, 1.6e-3)
    budgets: tuple[int, ...] = (1, 4, 16)
    """numbers of steps"""
    examples: int = 4
    """per step"""
    held_out: int = 24
    """examples, at most, on each of the selection and the report split"""
    folds: int = 4
    """disjoint parts of these"""
    repair: int = 48
    """steps of repair on what is kept, at most"""
    repair_rate: float = 5e-4
    """their rate"""
    plain: bool = False
    """gradient descent alone, for a trial"""
    spare: bool = False
    """gradient descent alone with what every model has seen, where nothing is comparable"""

    def on(self, forget: Forget) -> "Attack":
        """Return the attack on what comes back of a set."""
        return replace(self, plain=True) if self.spare and not forget.never else self


def attacked(
    models: Mapping[str, nn.Module], removed: Subtask, kept: Subtask, attack: Attack, *, seed: int, out: Path
) -> tuple[Relearning, dict[str, float]]:
    """Attack a model and its controls with a forget set; return it all, and each model's loss before.

    Questions with options are told apart among these (loss `choice`), and have no repair on running text, which has no
    options; all else is cross-entropy, of prompts that of the answer.
    """
    counts = _counts(removed)
    stated = min(attack.held_out, counts["selection"], counts["report"])
    report = removed.draw(stated, split="report")
    options = RIGHT in report.fields
    grid = Grid(
        rates=attack.rates,
        budgets=attack.budgets,
        examples=min(attack.examples, counts["train"]),
        held_out=stated,
        folds=attack.folds,
        repair=0 if options else attack.repair,
        repair_rate=attack.repair_rate,
        loss="choice" if options else "cross_entropy",
        # Of a file of few questions, all are few.
        ways=PLAIN_WAYS if attack.plain else tuple(w for w in WAYS if w.data != "few" or counts["train"] >= FEW),
    )
    before = {
        name: float(losses(model, report.to(next(model.parameters()).device), grid.metric).mean())
        for name, model in models.items()
    }
    found = relearn_probe(models, [removed], removed, grid, (seed,), kept=() if options else (kept,), out=out)
    return found, before


def _counts(removed: Subtask) -> dict[str, int]:
    """Return how many items each split has; of running text, more than anybody asks for."""
    made: Mapping[str, Any] = dict(removed.made or {})
    return {split: int(made.get("items", {}).get(split, 2**31)) for split in get_args(Split)}
