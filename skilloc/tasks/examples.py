"""Examples: what a model is asked, what would be right, and which positions have a name.

The first axis of every tensor is the row: what passes through the model by itself. An example is one row, or several
where a question needs one row per option; `owner` says which example each row belongs to. Losses and effects are per
example, so that every later number has an error bar.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from skilloc.mistakes import WrongType, WrongValue, of_kind

IGNORE = -100
"""A target with this value is not scored."""

TOKENS, MASK = "tokens", "mask"
"""Names of the inputs of a language model that come padded: token ids, and True where a token is no padding."""

Inputs = Tensor | Mapping[str, Tensor]
"""One tensor, or several by name: token ids with their mask, or the keyword arguments of a user's module."""


@dataclass(frozen=True)
class Examples:
    """Examples with their targets.

    For language, `inputs` are token ids and `targets[r, t]` is the token that follows `inputs[r, t]`; for
    classification, `inputs` are floats, images or several tensors, and `targets[r]` is a class. A target of `IGNORE` is
    not scored. Tokens that are padded come as `{"tokens": ids, "mask": True where a token is no padding}`.

    Attributes:
        inputs: what the model is given.
        targets: what would be right.
        fields: more about each row, by name, such as "wrong" (the token of a wrong answer); first axis rows.
        at: named positions: one position per row, or True where a position belongs to the name.
        paired: a second input of each row, of the same shapes: the corrupted twin of a prompt.
        owner: which example each row belongs to, rising from 0; None where each row is an example of its own.

    Raises:
        TypeError: if the inputs or targets are no tensors, or the targets no whole numbers.
        ValueError: if the shapes do not belong together, there are no examples, or an example has no scored target.

    Example:
        >>> import torch
        >>> import skilloc as sk
        >>> examples = sk.Examples(torch.zeros(3, 6), torch.tensor([0, 1, 1]))
        >>> len(examples)
        3
    """

    inputs: Inputs
    targets: Int[Tensor, "row *pos"]
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    at: Mapping[str, Int[Tensor, " row"] | Bool[Tensor, "row pos"]] = field(default_factory=dict)
    paired: Inputs | None = None
    owner: Int[Tensor, " row"] | None = None

    def __post_init__(self) -> None:
        self._check_tensors()
        rows = len(self.first)
        if rows == 0 or len(self.targets) != rows:
            raise WrongValue(
                f"`targets` has {len(self.targets)} examples but `inputs` has {rows}; pass one row of targets per "
                "example, and at least one example"
            )
        if self.tokens is not None and self.targets.ndim > 1 and self.targets.shape != self.tokens.shape:
            raise WrongValue(
                f"`targets` has shape {tuple(self.targets.shape)} but token `inputs` have {tuple(self.tokens.shape)}; "
                "pass the next token of every position, and IGNORE where none is scored"
            )
        for name, value in self._tensors():
            if len(value) != rows:
                raise WrongValue(f"`{name}` has {len(value)} rows but `inputs` has {rows}; pass one entry per row")
        scored = (self.targets.reshape(rows, -1) != IGNORE).any(dim=1)
        if self.owner is None and not bool(scored.all()):
            raise WrongValue(
                f"`targets` scores nothing in example {int((~scored).nonzero()[0])}; give each example at least one "
                "target, or leave it out"
            )
        if self.owner is not None and not _rises(self.owner):
            raise WrongValue(
                "`owner` must count examples from 0, in order, without a gap; give rows of one example together"
            )
        shapes = [_shapes(given) for given in (self.inputs, self.paired) if given is not None]
        if len(shapes) == 2 and shapes[0] != shapes[1]:
            raise WrongValue(f"`paired` has shapes {shapes[1]} but `inputs` {shapes[0]}; pad both alike")

    def _check_tensors(self) -> None:
        for name, given in (("inputs", self.inputs), ("targets", self.targets), ("paired", self.paired)):
            for one in given.values() if isinstance(given, Mapping) and name != "targets" else (given,):
                if one is not None or name != "paired":
                    of_kind(name, one, Tensor, f"pass a tensor, such as torch.as_tensor({name})")
        if self.targets.dtype.is_floating_point or self.targets.dtype in (torch.bool, torch.complex64):
            raise WrongType(
                f"`targets` is a tensor of {self.targets.dtype}; pass whole numbers, of classes or tokens, such as "
                "targets.long()"
            )

    def __len__(self) -> int:
        return len(self.first) if self.owner is None else int(self.owner[-1]) + 1

    @property
    def first(self) -> Tensor:
        """The only input, or the first of several."""
        return self.inputs if isinstance(self.inputs, Tensor) else next(iter(self.inputs.values()))

    @property
    def tokens(self) -> Int[Tensor, "row pos"] | None:
        """The token ids, or None where the inputs are something else."""
        given = self.inputs if isinstance(self.inputs, Tensor) else self.inputs.get(TOKENS)
        return given if given is not None and not given.is_floating_point() and given.ndim == 2 else None

    @property
    def mask(self) -> Bool[Tensor, "row pos"] | None:
        """True where a token is no padding; None where nothing is padded."""
        found = None if isinstance(self.inputs, Tensor) else self.inputs.get(MASK)
        return None if found is None else found.bool()

    @property
    def scored(self) -> Bool[Tensor, "row *pos"]:
        """True where a target is scored."""
        return self.targets != IGNORE

    @property
    def positions(self) -> int:
        """Number of positions of a row: its tokens, or 1."""
        return 1 if self.tokens is None else self.tokens.shape[1]

    @property
    def digest(self) -> str:
        """Hash of the exact examples; every result carries it."""
        state = hashlib.sha256()
        plain = [self.inputs] if isinstance(self.inputs, Tensor) else []
        for tensor in (*plain, self.targets):
            _add(state, "", tensor)
        for name, tensor in self._tensors():
            if name != "inputs":
                _add(state, name, tensor)
        return state.hexdigest()[:16]

    def rows_of(self, examples: slice) -> slice:
        """Return the rows of some consecutive examples."""
        if self.owner is None:
            return examples
        chosen = range(len(self))[examples]
        ends = torch.tensor([chosen.start, chosen.stop], device=self.owner.device)
        start, stop = torch.searchsorted(self.owner.contiguous(), ends).tolist()
        return slice(start, stop)

    def part(self, examples: slice) -> "Examples":
        """Return some consecutive examples, with all their rows."""
        rows = self.rows_of(examples)
        found = self._map(lambda tensor: tensor[rows])
        return found if self.owner is None else replace(found, owner=self.owner[rows] - self.owner[rows.start])

    def chosen(self, examples: Sequence[int] | Int[Tensor, " _"]) -> "Examples":
        """Return some examples in some order, with all their rows.

        Raises:
            ValueError: if none is chosen.
        """
        if not len(examples):
            raise WrongValue("`examples` is empty; choose at least one")
        if self.owner is None:
            rows = torch.as_tensor(examples, device=self.first.device)
            return self._map(lambda tensor: tensor[rows])
        parts = [self.rows_of(slice(e, e + 1)) for e in examples]
        index = torch.cat([torch.arange(part.start, part.stop) for part in parts]).to(self.first.device)
        counts = torch.tensor([part.stop - part.start for part in parts], device=self.first.device)
        owner = torch.arange(len(parts), device=index.device).repeat_interleave(counts)
        return replace(self._map(lambda tensor: tensor[index]), owner=owner)

    def swapped(self) -> "Examples":
        """Return the same with the paired inputs as inputs.

        Raises:
            ValueError: if there are none.
        """
        if self.paired is None:
            raise WrongValue(
                "these examples have no `paired` inputs; give each example its second input, "
                "or, of rows of a file, name their field `corrupted`"
            )
        return replace(self, inputs=self.paired, paired=self.inputs)

    def per_example(self, values: Tensor) -> Tensor:
        """Return the sum over the rows of each example, where the first axis of `values` is the row."""
        if self.owner is None:
            return values
        return values.new_zeros(len(self), *values.shape[1:]).index_add(0, self.owner, values)

    def to(self, device: torch.device | str) -> "Examples":
        """Return the same examples on `device`."""
        return self._map(lambda tensor: tensor.to(device))

    def _map(self, function: Callable[[Tensor], Tensor]) -> "Examples":
        def through(value: Any) -> Any:
            if isinstance(value, Tensor):
                return function(value)
            return {name: through(part) for name, part in value.items()} if isinstance(value, Mapping) else value

        made = object.__new__(Examples)
        for entry in fields(self):
            object.__setattr__(made, entry.name, through(getattr(self, entry.name)))
        return made

    def _tensors(self) -> list[tuple[str, Tensor]]:
        """All tensors but single inputs and targets, by a name that tells them apart."""
        found = []
        for entry in ("inputs", "fields", "at", "paired"):
            value = getattr(self, entry)
            if isinstance(value, Tensor):
                found.append((entry, value))
            elif value is not None:
                found += [(f"{entry}.{name}", value[name]) for name in sorted(value)]
        return found if self.owner is None else [*found, ("owner", self.owner)]


def _shapes(given: Inputs) -> list[tuple[int, ...]]:
    return [tuple(given.shape)] if isinstance(given, Tensor) else [tuple(given[name].shape) for name in sorted(given)]


def _rises(owner: Int[Tensor, " row"]) -> bool:
    steps = owner.diff()
    return int(owner[0]) == 0 and bool(((steps == 0) | (steps == 1)).all())


def _add(state: "hashlib._Hash", name: str, tensor: Tensor) -> None:
    array = tensor.detach().cpu().contiguous().numpy()
    state.update(f"{name}{array.dtype.str}{array.shape}".encode())
    state.update(array.tobytes())
