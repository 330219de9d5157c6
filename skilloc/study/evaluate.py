"""lm-eval's tasks on a model of ours: as it is, with units held through its own hooks, or pruned.

The harness asks for the log-likelihood of continuations; they are scored as `tasks.rows` puts prompts and answers, and
nothing else of the harness is replaced: it reads the task's file, writes the prompts and counts.
"""

import contextlib
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from skilloc.experiment import hold, zero_reference
from skilloc.masks import Mask
from skilloc.mistakes import Mistake, NotInstalled, WrongValue, whole
from skilloc.models.face import Face
from skilloc.models.language import Opened, encoder, first_token
from skilloc.models.makers import face_of
from skilloc.tasks import IGNORE, Examples
from skilloc.tasks.items import Item
from skilloc.tasks.losses import READY
from skilloc.tasks.rows import examples_of


class Scored(NamedTuple):
    """A continuation's log-likelihood in nats, and whether each of its tokens is the likeliest."""

    nats: float
    greedy: bool


class Evaluation(NamedTuple):
    """What the harness found.

    Attributes:
        task: its name.
        metrics: by the harness's own names, such as `acc,none`.
        samples: one per item, as the harness logs them.
    """

    task: str
    metrics: Mapping[str, float]
    samples: tuple[Any, ...]


def score(
    opened: Opened, pairs: Sequence[tuple[str, str]], *, add_bos: bool | None = None, batch: int = 16
) -> list[Scored]:
    """Return the log-likelihood of each continuation after its context, as lm-eval has it.

    Args:
        opened: the model and its tokenizer; hooks that are on it are honoured.
        pairs: context and continuation; the space between them belongs to either.
        add_bos: whether rows begin with the tokenizer's first token; if not given, where the tokenizer puts one first.
        batch: rows that pass through the model together.
    """
    encode, first = encoder(opened.tokenizer), first_token(opened.tokenizer)
    first = None if add_bos is False else first
    face, device = face_of(opened.model), next(opened.model.parameters()).device
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
    found: dict[int, Scored] = {}
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        rows = examples_of([Item(*pairs[i]) for i in some], encode, first=first)
        for place, one in zip(some, _scored(rows.to(device), face), strict=True):
            found[place] = one
    return [found[i] for i in range(len(pairs))]


@torch.no_grad()
def _scored(examples: Examples, face: Face) -> list[Scored]:
    logits = face.run(examples.inputs).float()
    lengths = (examples.targets != IGNORE).sum(dim=1)
    nats = -READY["answer"](logits, examples) * lengths
    greedy = READY["mistake"](logits, examples) == 0
    return [Scored(float(n), bool(g)) for n, g in zip(nats, greedy, strict=True)]


def evaluate(
    opened: Opened, file: Path, *, mask: Mask | None = None, add_bos: bool | None = None, limit: int | None = None
) -> Evaluation:
    """Return what lm-eval says of a model on the task of a file: its metrics, and each item.

    Args:
        opened: the model and its tokenizer.
        file: a task of lm-eval in YAML, of which the data lie in local files.
        mask: hold the units that it drops at zero, through the model's own hooks.
        add_bos: as `score` takes it.
        limit: evaluate the first items only, this many.

    Raises:
        ModuleNotFoundError: if lm-eval is not installed.
        FileNotFoundError: if there is no such file.
        ValueError: if the file is broken or names no task, or a task asks for more than log-likelihoods, or for fields
            that its rows have not.
    """
    if limit is not None:
        whole("limit", limit)
    if importlib.util.find_spec("lm_eval") is None:
        raise NotInstalled('`evaluate` needs the lm-eval package; pip install "skilloc[eval]"', name="lm_eval")
    if not file.is_file():
        raise FileNotFoundError(f'no file "{file}"; pass a task of lm-eval in YAML')
    import yaml
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    try:
        told = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # what the harness itself resolves
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WrongValue(f'"{file}" is not YAML ({" ".join(str(error).split())}); mend it there') from error
    name = told.get("task") if isinstance(told, dict) else None
    if not isinstance(name, str):
        raise WrongValue(f'"{file}" names no `task`; write one task of lm-eval per file')
    held: Any = contextlib.nullcontext()
    if mask is not None:
        held = hold(opened.model, mask, zero_reference(mask.units))
    try:
        manager = TaskManager(include_path=str(file.resolve().parent), include_defaults=False)
        with held:
            found = simple_evaluate(
                model=_harness(opened, add_bos), tasks=[name], task_manager=manager, limit=limit, bootstrap_iters=0
            )
    except (Mistake, OSError):
        raise
    except Exception as error:  # the harness raises whatever the task's file makes it do
        said = " ".join(str(error).split())
        raise WrongValue(
            f'lm-eval cannot run the task "{name}" of "{file}" ({type(error).__name__}: {said}); mend what it says'
        ) from error
    numbers = {key: value for key, value in found["results"][name].items() if isinstance(value, float)}
    return Evaluation(name, numbers, tuple(found["samples"][name]))


def _harness(opened: Opened, add_bos: bool | None) -> Any:
    from lm_eval.api.model import LM

    class Harness(LM):  # type: ignore[misc]  # lm-eval has no types
        """What the harness asks a model."""

        def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
            found = score(opened, [request.args for request in requests], add_bos=add_bos)
            return [(one.nats, one.greedy) for one in found]

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            raise WrongValue("the task asks for rolling log-likelihoods; measure text with `skilloc effects` instead")

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            raise WrongValue("the task asks for generated text; use a task of multiple choice or log-likelihood")

    return Harness()
