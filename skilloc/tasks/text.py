"""Subtasks made of text: documents split without leaks, tokenised, and packed into rows of one length.

A language example is `length` tokens with the token that follows each of them; its loss is the mean over these targets,
in nats per token. The tokenizer comes in as a function, so that nothing here knows about models.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain
from typing import get_args

import numpy as np
import torch
from jaxtyping import Int, UInt64
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.tasks.corpora import (
    BUILTIN,
    Document,
    Documents,
    builtin_documents,
    documents,
)
from skilloc.tasks.examples import IGNORE, Examples
from skilloc.tasks.subtask import Split, Subtask

__all__ = [
    "BUILTIN",
    "Document",
    "Documents",
    "builtin_documents",
    "documents",
    "documents_digest",
    "near_duplicates",
    "shuffled_targets",
    "split_documents",
    "text_subtask",
]

Encode = Callable[[list[str]], list[list[int]]]

ALIKE = 0.4
"""Documents that share this part of their lines (intersection over union) are near-duplicates."""

HEAVY = 0.05
"""A group of near-duplicates with more than this part of all text goes to `train`, whatever its hash."""

SKETCHES, BAND = 48, 2
"""Minima kept per document, and how many of them must agree for two documents to be compared: at a similarity of 0.4,
98 of 100 pairs are."""

NEIGHBOURS = 32
"""In a bucket of documents whose sketches agree, each is compared with this many before it."""


def split_documents(documents: Sequence[Document]) -> dict[Split, list[Document]]:
    """Split documents into `train` (8 of 10), `selection` and `report` (1 of 10 each), by a hash of their content.

    Exact duplicates are dropped. Near-duplicates form groups (see `near_duplicates`), and a group goes where the
    smallest hash in it says. So the split depends on the texts alone: not on their order, names, or machine.

    Returns:
        The documents of each split, in the order of their hashes.
    """
    unique = {_digest(document.text): document for document in reversed(documents)}
    keys = sorted(unique)
    ordered = [unique[key] for key in keys]
    groups = near_duplicates([document.text for document in ordered])
    sizes: Counter[int] = Counter()
    for group, document in zip(groups, ordered, strict=True):
        sizes[group] += len(document.text)
    members = Counter(groups)
    heavy = {group for group in members if members[group] > 1 and sizes[group] > HEAVY * sizes.total()}
    splits: dict[Split, list[Document]] = {split: [] for split in get_args(Split)}
    for group, document in zip(groups, ordered, strict=True):
        place = int(keys[group][:8], 16) / 2**32
        split: Split = "train" if place < 0.8 or group in heavy else "selection" if place < 0.9 else "report"
        splits[split].append(document)
    return splits


def near_duplicates(texts: Sequence[str]) -> list[int]:
    """Group texts that share many lines.

    Two texts are near-duplicates if the sets of their lines (cut at ends of sentences too; case, spaces and lines under
    ten characters ignored) have an intersection of at least `ALIKE` of their union. Groups are the connected
    components. Candidates come from min-hash sketches [Broder 1997], and are then compared in full.

    Returns:
        For each text, the index of the first text in its group.
    """
    lines = [_lines(text) for text in texts]
    parent = list(range(len(texts)))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in _candidates(lines):
        a, b = root(first), root(second)
        if a != b:
            shared = len(np.intersect1d(lines[first], lines[second], assume_unique=True))
            if shared >= ALIKE * (len(lines[first]) + len(lines[second]) - shared):
                parent[max(a, b)] = min(a, b)
    return [root(node) for node in range(len(texts))]


def _lines(text: str) -> UInt64[np.ndarray, " line"]:
    """Sorted hashes of the distinct lines of a text."""
    pieces = {"".join(piece.split()).lower() for line in text.split("\n") for piece in line.split(". ")}
    kept = [piece for piece in pieces if len(piece) >= 10] or ["".join(text.split()).lower()]
    hashes = b"".join(hashlib.blake2b(piece.encode("utf-8", "replace"), digest_size=8).digest() for piece in kept)
    return np.sort(np.frombuffer(hashes, dtype="<u8"))


def _candidates(lines: Sequence[UInt64[np.ndarray, " _"]]) -> Iterable[tuple[int, int]]:
    """Pairs of documents whose sketches agree in a band."""
    if not lines:
        return
    starts = np.cumsum([0, *(len(document) for document in lines[:-1])])
    every = np.concatenate(lines)
    random = np.random.default_rng(0)  # which hash functions: fixed, so that the split is
    for _ in range(SKETCHES // BAND):
        band = []
        for _ in range(BAND):
            factor, shift = (random.integers(2**63, size=2, dtype=np.uint64) | np.uint64(1)).tolist()
            mixed = every * np.uint64(factor) + np.uint64(shift)
            band.append(np.minimum.reduceat(mixed ^ (mixed >> np.uint64(29)), starts).tolist())
        buckets: dict[tuple[int, ...], list[int]] = {}
        for node, key in enumerate(zip(*band, strict=True)):
            buckets.setdefault(key, []).append(node)
        for bucket in buckets.values():
            for position, node in enumerate(bucket):
                for other in bucket[max(0, position - NEIGHBOURS) : position]:
                    yield other, node


def documents_digest(documents: Iterable[Document]) -> str:
    """Hash of the texts, in their order."""
    state = hashlib.sha256()
    for document in documents:
        state.update(_digest(document.text).encode())
    return state.hexdigest()[:16]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()


def text_subtask(
    name: str,
    documents: Sequence[Document],
    encode: Encode,
    *,
    length: int = 128,
    separator: int | None = None,
    first: int | None = None,
) -> Subtask:
    """Make a language subtask of documents.

    Within a split (see `split_documents`), the documents, in the order of their hashes, are tokenised, each is followed
    by `separator`, and the stream is cut into rows of `length + 1` tokens, or of `length` with `first` put before each;
    what is left over is dropped. A row gives `inputs = row[:-1]` and `targets = row[1:]`. A draw takes n rows at random
    without replacement, and keeps them in the order of the documents: contiguous folds hold different documents, but
    for one that may straddle a boundary. Nothing is tokenised before the first draw from a split.

    Args:
        name: how results call the subtask.
        documents: the texts.
        encode: token ids of each text, without special tokens.
        length: tokens per example.
        separator: the id of the end-of-document token; None for none.
        first: the id that every row begins with; None for none. Models whose tokenizer puts one first have seen no row
            without it.

    Raises:
        ValueError: if `length` is below 1 or there are no documents; on drawing, if the split holds too few rows.
    """
    if length < 1:
        raise WrongValue(f"`length` is {length}; examples need at least 1 token")
    if not documents:
        raise WrongValue(f'`documents` of subtask "{name}" is empty; pass at least one document')
    splits = cache(lambda: split_documents(documents))
    end = [] if separator is None else [separator]

    @cache
    def rows(split: Split) -> Int[Tensor, "row token"]:
        encoded = encode([document.text for document in splits()[split]])
        stream = torch.tensor(list(chain.from_iterable([*ids, *end] for ids in encoded if ids)), dtype=torch.int64)
        own = length + (first is None)
        packed = stream[: len(stream) // own * own].reshape(-1, own)
        return packed if first is None else torch.cat([packed.new_full((len(packed), 1), first), packed], dim=1)

    def sample(n: int, split: Split, seed: int) -> Examples:
        packed = rows(split)
        if len(packed) < n:
            counts = ", ".join(f"{len(part)} {key}" for key, part in splits().items())
            raise WrongValue(
                f'{n} examples are too many: the {split} split of subtask "{name}" has {len(packed)} rows of {length} '
                f"tokens (documents: {counts}); draw fewer or from another split, or pass more documents"
            )
        chosen = torch.randperm(len(packed), generator=torch.Generator().manual_seed(seed))[:n].sort().values
        return Examples(packed[chosen, :-1].contiguous(), packed[chosen, 1:].contiguous())

    sources = sorted({document.origin.partition(":")[0] for document in documents})
    made = {
        "sources": sources if len(sources) <= 8 else [*sources[:8], f"and {len(sources) - 8} more"],
        "documents": len(documents),
        "bytes": sum(len(document.text.encode("utf-8", "replace")) for document in documents),
        "content": documents_digest(sorted(documents, key=lambda document: document.text)),
        "length": length,
        "separator": separator,
        "add_bos": first is not None,
        **(documents.record if isinstance(documents, Documents) else {}),
    }
    return Subtask(name, sample, made=made)


def shuffled_targets(subtask: Subtask) -> Subtask:
    """Make the null control of a subtask: the same inputs, with the scored targets permuted over the whole batch.

    What a unit does for these examples is not the skill. The subtask is called `NAME_shuffled`.
    """

    def sample(n: int, split: Split, seed: int) -> Examples:
        batch = subtask.sample(n, split, seed)
        targets = batch.targets.clone()
        scored = targets != IGNORE
        values = targets[scored]
        targets[scored] = values[torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))]
        return Examples(batch.inputs, targets)

    return Subtask(f"{subtask.name}_shuffled", sample, made={**(subtask.made or {}), "targets": "shuffled"})
