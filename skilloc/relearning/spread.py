"""The runs of a probe on many workers: cut into parts, in waves of which each needs what the last one found.

    repairs, of each model with each seed   ->   the first seed's runs at the middle rate   ->   what these leave

Small networks take their steps side by side (`training.many`), and what becomes of each depends, to rounding, on whom
it stands beside: all runs of a seed that train on the same at one rate are one part. They have no short list, and so
no third wave. Of larger models each run is a part, but for those of a repaired one.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from torch import nn

from skilloc import store
from skilloc.mistakes import WrongValue
from skilloc.models.makers import face_of
from skilloc.relearning.doing import do_runs
from skilloc.relearning.kept_runs import is_kept
from skilloc.relearning.listed import short_list, tried_first
from skilloc.relearning.question import Probe, blank, entries
from skilloc.relearning.runs import Asked, Seeded, repair_spec, runs_of, seeded


class Part(NamedTuple):
    """What one worker does together.

    Attributes:
        seed: of the attack.
        models: names of those that it is about, in the order of the probe.
        keys: of what is kept of it: runs, or one repair.
    """

    seed: int
    models: tuple[str, ...]
    keys: tuple[str, ...]


class SeedRuns:
    """The runs of one seed, model by model, made when they are first asked for.

    Args:
        probe: what is asked.
        place: of the seed.
    """

    def __init__(self, probe: Probe, place: int) -> None:
        self.probe, self.place, self.seed = probe, place, probe.seeds[place]
        self._made: dict[str, list[Asked]] = {}

    @cached_property
    def _own(self) -> Seeded:
        return seeded(self.probe, self.place)

    def _model(self, name: str) -> nn.Module:
        return self.probe.of[name][self.place]

    def repair_key(self, name: str) -> str:
        """Return under which key the repair of a model is kept."""
        return store.key(repair_spec(self._model(name), None, self._own.shared))

    def of(self, name: str) -> list[Asked]:
        """Return the runs of a model, which is repaired for that, unless its repair is kept."""
        if name not in self._made:
            into = entries(blank(self.probe.question))
            self._made[name] = runs_of(self._model(name), None, self._own, into)
        return self._made[name]


def spread_runs(probe: Probe, do: Callable[[Sequence[Part]], None]) -> None:
    """Have everything done that `relearn_probe` then finds, and need not do itself.

    Args:
        probe: what is asked, with a folder for the runs.
        do: has parts done, in any order, and returns when what they are about is kept.
    """
    question = probe.question
    seeds = [SeedRuns(probe, place) for place in range(len(probe.seeds))]
    # The first seed last, so that workers need not make its models again for the next wave.
    repairs = [Part(own.seed, (name,), (own.repair_key(name),)) for own in reversed(seeds) for name in probe.of]
    do(_left(probe, repairs))
    small = tuple(name for name, models in probe.of.items() if face_of(models[0]).chain is not None)
    larger, first = [name for name in probe.of if name not in small], seeds[0]
    beside = [part for own in seeds for part in _beside(own, small)]
    tried = [one for name in larger for one in _alone(first, name, tried_first(first.of(name), question))]
    do(_left(probe, beside + tried))
    listed = {name: short_list(first.of(name), question) for name in larger}
    chosen = [
        (own, name, [run for run in own.of(name) if run.at[0][0] in listed[name]]) for own in seeds for name in larger
    ]
    do(_left(probe, [one for own, name, runs in chosen for one in _alone(own, name, runs)]))


def do_part(own: SeedRuns, part: Part) -> None:
    """Do what a part is about, and keep what is found.

    Args:
        own: the runs of its seed.
        part: what is done.

    Raises:
        ValueError: if it is about other runs than those that can be made here.
    """
    runs = {store.key(run.spec): run for name in part.models for run in own.of(name)}
    others = set(part.keys) - set(runs)
    if others and others - {own.repair_key(name) for name in part.models}:
        raise WrongValue(
            "this worker would attack other models, or with other examples, than were asked for; give all workers the "
            "same files, libraries and type of processor"
        )
    do_runs([run for key, run in runs.items() if key in part.keys], own.probe.question)


def _alone(own: SeedRuns, name: str, runs: Sequence[Asked]) -> Iterator[Part]:
    """Yield each run as a part; those of a repaired model together, since whoever does them repairs it first."""
    parts: dict[str, list[str]] = {}
    for run in runs:
        key, way = store.key(run.spec), own.probe.question.grid.ways[run.at[0][0]]
        parts.setdefault(way.name if way.repaired else key, []).append(key)
    for keys in parts.values():
        yield Part(own.seed, (name,), tuple(keys))


def _beside(own: SeedRuns, models: tuple[str, ...]) -> Iterator[Part]:
    """Yield the runs of small networks, those together that `do_runs` does together."""
    together: dict[Any, list[str]] = {}
    for name in models:
        for run in own.of(name):
            together.setdefault((run.data, run.size, run.rate), []).append(store.key(run.spec))
    for keys in together.values():
        yield Part(own.seed, models, tuple(keys))


def _left(probe: Probe, parts: Sequence[Part]) -> list[Part]:
    """Return the parts that are not kept whole, without what is another part's as well: equal models share a run."""
    seen: set[str] = set()
    found = []
    for part in parts:
        keys = tuple(key for key in dict.fromkeys(part.keys) if key not in seen)
        seen.update(keys)
        if not all(is_kept(probe.question, key) for key in keys):
            found.append(part._replace(keys=keys))
    return found
