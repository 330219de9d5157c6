"""What a narrow model is that is handed over: how it was made, what it costs, and what is known about the rest."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from skilloc.locality.intervals import Interval
from skilloc.pruning.results import Localized, Parameters, Pruned


@dataclass(frozen=True)
class Made:
    """A step in which a model was made.

    Attributes:
        settings: what was asked for.
        found: what became of the model.
    """

    settings: Mapping[str, Any]
    found: Pruned | Localized


class Latency(NamedTuple):
    """Milliseconds of a pass, the median of several in turn, and the ratio of narrow to original with its interval."""

    tokens: int
    before: float
    after: float
    ratio: Interval


class Judged(NamedTuple):
    """What an attack found: of which subtask, the verdict's word, and the sentences with its number."""

    attacked: str
    word: str
    sentences: tuple[str, ...]


class Written(NamedTuple):
    """A GGUF file: its size, and by how much its logits differ, relative to the largest; or why there is none."""

    bytes: int
    difference: float
    why: str = ""


@dataclass(frozen=True)
class HandedOver:
    """A narrow model in the form of plain transformers.

    Attributes:
        name: of the original.
        original: digest of its weights.
        model: digest of those of the narrow one.
        kind: its class in transformers.
        made: the steps in which it was made, in their order.
        units: number of units before and after, by kind.
        parameters: before and after.
        stored: parameters in the folder, with the zeros that fill layers up to one width.
        bytes: of the original's weights in the same type, and of those in the folder.
        difference: of its logits in plain transformers from the model's, relative to the largest.
        latency: of passes over so many tokens.
        place: where and in which numbers they ran.
        verdicts: what attacks found.
        gguf: the GGUF file, where one was asked for.
        versions: of the libraries that it was written with.
    """

    name: str
    original: str
    model: str
    kind: str
    made: tuple[Made, ...]
    units: dict[str, tuple[int, int]]
    parameters: Parameters
    stored: int
    bytes: Parameters
    difference: float
    latency: tuple[Latency, ...]
    place: str
    verdicts: tuple[Judged, ...]
    gguf: Written | None
    versions: dict[str, str]
