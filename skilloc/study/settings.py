"""What a study asks. Plain values: no torch here, because the command line's help reads this."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skilloc.mistakes import WrongValue, a_seed, real, whole

METHODS = ("ablation", "attribution", "two-stage", "integrated-gradients")
SPLITS = ("train", "selection", "report")
LAST = "last"
"""In `exact`: the units of the last layer, behind which only the unembedding has to be run again."""
REFERENCES = ("zero", "mean", "flat mean", "resample", "paired")


@dataclass(frozen=True)
class Settings:
    """How effects are measured, and of which units."""

    units: tuple[str, ...] = ("neuron", "head")
    """kinds of unit: neuron, head, expert, or several of these; residual dimensions or layers, which overlap the
    others, alone"""
    method: str = "ablation"
    """ablation: every unit exactly. attribution: all units from gradients, compared with exact effects of some.
    two-stage: attribution, and where exact effects were measured, those. integrated-gradients: how the removal of a
    whole layer's units divides among them"""
    reference: str = "zero"
    """what an ablated unit is held at: zero; its mean over other text, at each position; its flat mean, over all
    positions; resample, its values on other examples; or paired, those on each example's second input"""
    loss: str = "cross_entropy"
    """what is measured: cross_entropy, answer, choice, logit_difference, kl, error, or package.module:function"""
    at: str = "all"
    """positions at which units are held: all, scored, last, or a name that the examples give to positions"""
    sequences: int = 8
    """examples per subtask"""
    length: int = 96
    """tokens per example"""
    folds: int = 8
    """disjoint parts of the examples, for error bars"""
    split: str = "report"
    """part of the documents: choose units on selection, state numbers on report"""
    seed: int = 0
    """of every random choice"""
    layers: tuple[int, ...] = ()
    """only units of these layers"""
    only: tuple[str, ...] = ()
    """only these units, by name, such as L3N17 L2H1"""
    sample: int | None = None
    """measure this many random units exactly (default: 64 beside an estimate; every unit for ablation)"""
    top: int | None = None
    """measure the units with the largest effects exactly, this many per subtask (default: 50 beside an estimate)"""
    exact: tuple[str, ...] = ()
    """beside an estimate, measure these exactly too: a kind of unit, such as head, or last: the last layer's units,
    which are cheap"""
    of: Path | None = None
    """rank the top units by the effects of this study, instead of the estimate"""
    curvature: int = 8
    """label draws for the curvature of an attribution; 0 leaves it out"""
    memory: float | None = None
    """gigabytes that a process with one thread takes at most, about; fewer examples pass through the model at once
    (default: as many as make 2^26 logits)"""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("method", self.method, METHODS),
            ("reference", self.reference, REFERENCES),
            ("split", self.split, SPLITS),
        ):
            if value not in allowed:
                raise WrongValue(f'unknown {name} "{value}"; use {", ".join(allowed[:-1])} or {allowed[-1]}')
        for name, least in (("sequences", 1), ("length", 1), ("folds", 1), ("curvature", 0)):
            whole(name, getattr(self, name), least)
        for name in ("sample", "top"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 0)
        for layer in self.layers:
            whole("layers", layer, 0)
        a_seed("seed", self.seed)
        if self.memory is not None:
            real("memory", self.memory, 0.0)
        if self.folds > self.sequences:
            raise WrongValue(
                f"`folds` is {self.folds} but `sequences` is {self.sequences}; each fold needs a sequence of its own"
            )
        if self.exact and not self.estimates:
            raise WrongValue(
                f"`exact` is {' '.join(self.exact)}, but ablation measures every unit exactly; leave it out, or use "
                "the method two-stage"
            )
        for name in self.exact:
            if name not in (*self.units, LAST):
                raise WrongValue(f'`exact` has "{name}"; use {", ".join(self.units)} or {LAST}')
        if self.method == "ablation" and (self.sample, self.top) != (None, None) and not self.drawn + self.ranked:
            raise WrongValue("`sample` and `top` choose no unit; leave them out to measure every unit")
        if self.method == "two-stage" and not self.drawn + self.ranked + len(self.exact):
            raise WrongValue("`sample` and `top` choose no unit to measure exactly; use the method attribution")
        if self.method == "ablation" and self.top and self.of is None:
            raise WrongValue(
                f"`top` is {self.top}, but nothing ranks the units; name a study with `of`, or use the method two-stage"
            )

    @property
    def estimates(self) -> bool:
        """Whether the method estimates effects, so that it needs exact ones beside it."""
        return self.method != "ablation"

    @property
    def drawn(self) -> int:
        """Number of random units to measure exactly."""
        return (64 if self.estimates else 0) if self.sample is None else self.sample

    @property
    def ranked(self) -> int:
        """Number of top units of each subtask to measure exactly."""
        return (50 if self.estimates else 0) if self.top is None else self.top

    def record(self) -> dict[str, Any]:
        """Return the settings that the result depends on. JSON only."""
        return {
            "method": self.method,
            "reference": self.reference,
            "loss": self.loss,
            "at": self.at,
            "sequences": self.sequences,
            "length": self.length,
            "split": self.split,
            "folds": self.folds,
            "seed": self.seed,
            "layers": list(self.layers),
            "only": list(self.only),
            "sample": self.drawn,
            "top": self.ranked,
            **({"exact": list(self.exact)} if self.exact else {}),
            **({"curvature": self.curvature} if self.method in ("attribution", "two-stage") else {}),
        }
