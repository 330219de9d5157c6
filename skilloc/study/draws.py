"""The examples of a study: drawn from sources that have a name, and drawn again from the record of a result."""

from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

from skilloc.experiment import Experiment
from skilloc.masks import Mask
from skilloc.mistakes import WrongValue, of_kind, whole
from skilloc.models.language import Opened, context_length, encoder, first_token, separator
from skilloc.models.makers import face_of, units_of
from skilloc.study.able import rights
from skilloc.study.settings import Settings
from skilloc.study.world import open_world
from skilloc.tasks import Split, Subtask
from skilloc.tasks.asked import Asked
from skilloc.tasks.losses import READY, Loss, as_loss
from skilloc.tasks.prompts import large_enough, prompts
from skilloc.tasks.text import documents, text_subtask
from skilloc.units import Units


class Shown(NamedTuple):
    """An example as text, as people wrote it: to be shown, and never read as markup.

    Attributes:
        prompt: what the model reads.
        answer: what is right.
        wrong: answers that are not.
        corrupted: the prompt's twin.
    """

    prompt: str
    answer: str
    wrong: tuple[str, ...]
    corrupted: str | None


def subtasks_of(
    opened: Opened, sources: Mapping[str, str], *, length: int = Settings.length, add_bos: bool | None = None,
    asked: Asked | None = None, least: int = 1,
) -> dict[str, Subtask]:  # fmt: skip
    """Make a subtask of every source: of texts, in the tokens of a model; of a model without a tokenizer, of the world
    beside it.

    Args:
        opened: the model and its tokenizer.
        sources: where the texts of each subtask come from, as `tasks.text.documents` reads it; for a model without a
            tokenizer, a name of a subtask in its `world.json`, such as composite_012.
        length: tokens per example; a model without a tokenizer has none.
        add_bos: whether rows begin with the tokenizer's first token; if not given, where the tokenizer puts one first.
        asked: which fields of a row are a prompt and its answer, if it names a prompt; else the sources are running
            text.
        least: of prompts in groups: leave out groups with fewer than this in a split, saying so.

    Raises:
        TypeError: if `opened` is not what `open_model` returns, or `sources` are no texts by name.
        ValueError: if there are no sources, one has no texts, the length is beyond the model's context, a subtask is
            not of the world, or a model that reads tokens came without its tokenizer.
        FileNotFoundError: if a file is not there, also `world.json` for a model without a tokenizer.

    Example:
        >>> import skilloc as sk
        >>> opened = sk.open_model("embedded")
        >>> subtasks = sk.subtasks_of(opened, {"code": "python"}, length=32)
        >>> subtasks["code"].draw(4).inputs.shape
        torch.Size([4, 32])
    """
    whole("length", length)
    whole("least", least)
    of_kind("opened", opened, Opened, "pass what open_model returns, with its tokenizer")
    of_kind("sources", sources, Mapping, 'name each source, such as {"code": "python"}')
    for source in sources.values():
        of_kind("sources", source, str, "name a built-in corpus, a file or a folder, by a text")
    if not sources:
        raise WrongValue("`sources` is empty; name at least one subtask")
    if opened.tokenizer is None:
        if (face := face_of(opened.model)).chain is None:
            raise WrongValue(
                f'"{opened.name}" is a {face.architecture} without a tokenizer, so that no text can be put to it; pass '
                "open_model its tokenizer, or make Examples of token ids and pass them to Experiment"
            )
        return _of_world(Path(opened.name).expanduser(), sources)
    context = context_length(opened.model)
    if length > context:
        raise WrongValue(
            f'`length` is {length} but the context of "{opened.name}" is {context} tokens; use at most that'
        )
    encode, end = encoder(opened.tokenizer), separator(opened.tokenizer)
    first = None if add_bos is False else first_token(opened.tokenizer)
    if add_bos and first is None:
        raise WrongValue(f'`add_bos` is True, but the tokenizer of "{opened.name}" puts no token first; leave it out')
    if asked is not None and asked.prompt is not None:
        groups = {
            name: prompts(source, encode, asked, name=name, first=first, longest=context)
            for name, source in sources.items()
        }
        if asked.group:
            groups = {name: large_enough(own, least) for name, own in groups.items()}
        return _prompted(sources, groups)
    made = {
        name: text_subtask(name, documents(source), encode, length=length, separator=end, first=first)
        for name, source in sources.items()
    }
    return {name: replace(made[name], made={**(made[name].made or {}), "source": sources[name]}) for name in made}


def _prompted(sources: Mapping[str, str], groups: Mapping[str, Mapping[str, Subtask]]) -> dict[str, Subtask]:
    """Return the groups of all sources under their own names."""
    made: dict[str, Subtask] = {}
    for name, source in sources.items():
        for called, own in groups[name].items():
            if called in made:
                raise WrongValue(f'two groups are called "{called}"; give the sources other names')
            made[called] = replace(own, made={**(own.made or {}), "source": source, "named": name})
    return made


def shown(subtask: Subtask, settings: Settings, count: int = 8) -> list[Shown]:
    """Return the first examples of a study as text: prompts with their answers; none of running text."""
    if subtask.items is None:
        return []
    items = subtask.items(settings.sequences, cast(Split, settings.split), settings.seed)[:count]
    return [Shown(item.prompt, item.answer, item.wrong, item.corrupted) for item in items]


def accuracies(experiment: Experiment, mask: Mask | None = None) -> dict[str, float]:
    """Return, for each subtask, the share of examples that the model gets right, with some units held or none.

    Right is what `Ability` says.
    """
    return {name: float(rights(experiment.only(name), mask).mean()) for name in experiment.folded.subtasks}


def _of_world(folder: Path, sources: Mapping[str, str]) -> dict[str, Subtask]:
    world = open_world(folder)
    for source in sources.values():
        if source not in world:
            raise WrongValue(f'unknown subtask "{source}"; the world of "{folder}" has {", ".join(world)}')
    return {
        name: replace(world[source], name=name, made={**(world[source].made or {}), "source": source})
        for name, source in sources.items()
    }


def experiment_of(
    opened: Opened, subtasks: Mapping[str, Subtask], settings: Settings, *, units: Units | None = None
) -> Experiment:
    """Return the experiment of a study: what its effects, and everything made from them, are measured on.

    Args:
        opened: the model and its tokenizer.
        subtasks: what to draw examples from (`subtasks_of`).
        settings: how many, from which split, and with which reference, loss, positions and folds.
        units: the unit axis; that of the settings' kinds if not given.

    Raises:
        ValueError: if the settings ask for what is not there.
    """
    return Experiment(
        opened.model,
        subtasks,
        reference=settings.reference,
        loss=loss_of(settings.loss),
        folds=settings.folds,
        at=settings.at,
        count=settings.sequences,
        seed=settings.seed,
        split=cast(Split, settings.split),
        units=units or units_of(opened.model, kinds=settings.units),
    )


def loss_of(name: str) -> Loss:
    """Return the loss of a name: one that is ready, or `package.module:function`.

    Raises:
        ValueError: if there is no such loss, or its module cannot be imported.
    """
    module, colon, function = name.partition(":")
    if not colon:
        if name not in READY:
            raise WrongValue(f'unknown `loss` "{name}"; use {", ".join(READY)}, or package.module:function')
        return READY[name]
    try:
        found = getattr(import_module(module), function)
    except ModuleNotFoundError as error:
        raise WrongValue(
            f'`loss` is "{name}", but there is no module "{error.name}"; start where it lies, or install it'
        ) from error
    except AttributeError as error:
        raise WrongValue(
            f'`loss` is "{name}", but module "{module}" has no "{function}"; name a function of (logits, examples)'
        ) from error
    except Exception as error:  # whatever the user's own module raises
        raise WrongValue(f'`loss` is "{name}", but importing "{module}" failed ({error}); mend it first') from error
    if not callable(found):
        raise WrongValue(
            f'`loss` is "{name}", which is a {type(found).__name__}; name a function of (logits, examples)'
        )
    return as_loss(found)
