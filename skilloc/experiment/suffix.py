"""Run only the part of a transformer that comes after a change.

Ablating a unit of layer L leaves everything before block L as it was. So the residual stream between the blocks is kept
from one ordinary run, and each ablation starts from there. This works on a private copy of the model's modules that
shares its weights: the bridge's hook points are taken out of the copy (they cost time), and each block's `forward` gets
a gate that lets the residual through untouched until the start. All that a model does around its blocks (masks, rotary
tables, final norm, soft caps) runs as its authors wrote it, so that nothing here depends on the architecture. Gradients
flow as they do in the model; who measures turns them off.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skilloc.models.decoder import arguments, logits_of, tokens_of
from skilloc.models.experts import attached_to_experts, expert_banks, mixture_of
from skilloc.models.face import Edit
from skilloc.models.places import component_at
from skilloc.models.unwrapped import plain
from skilloc.models.weights import banks_of, unwrapped
from skilloc.tasks import Inputs
from skilloc.units import HEAD

EVERYTHING = -1
"""The start of a pass that begins with the embedding."""


class UnknownLayoutError(Exception):
    """The modules of a model are laid out in a way that its suffix cannot be run alone; the bridge still runs it."""


NOT_ALONE = (UnknownLayoutError, RuntimeError, TypeError, ValueError, AttributeError, IndexError)
"""What comes of running the suffix of a model that cannot run alone."""


class _Caught(Exception):
    """Not an error: ends a forward pass that has nothing more to tell."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


class Suffix:
    """A private copy of a bridge's modules (weights shared) that can start at any block.

    Not safe to share between threads; each thread makes its own.

    Attributes:
        depth: number of blocks.

    Raises:
        UnknownLayoutError: if the blocks of the model cannot be found or run alone.
    """

    def __init__(self, bridge: nn.Module) -> None:
        for name in ("blocks", "unembed"):
            if name not in bridge._modules:
                raise UnknownLayoutError(f"it has no `{name}`")
        parts: Any = bridge  # which have no types
        self._copies: dict[int, Any] = {}
        self._module = plain(bridge, self._copies)
        exact = next(bridge.parameters()).dtype in (torch.float32, torch.float64)
        if exact and getattr(self._module, "_supports_sdpa", False):
            # The bridge shows attention patterns, so it asks for slow attention; nobody looks at this copy's. In fewer
            # bits, its other order of sums would show in effects.
            self._module.set_attn_implementation("sdpa")
        self._model = bridge
        self._heads = {bank.name: bank.width for bank in banks_of(bridge) if bank.kind == HEAD}
        self._sites: dict[str, tuple[nn.Module, str]] = {}
        self._experts = {bank.name: mixture_of(bridge, bank.layer) or () for bank in expert_banks(bridge)}
        blocks = [self._copy_of(block) for block in parts.blocks]
        self.depth = len(blocks)
        # Some old decoders (GPT-1, OPT-350m) have no norm at the end.
        self.final_norm = self._copy_of(parts.ln_final) if "ln_final" in parts._modules else nn.Identity()
        unembed: Any = self._copy_of(parts.unembed)
        if isinstance(getattr(unembed, "bias", None), Tensor) and not bool(unembed.bias.any()):
            # The bridge gives every unembedding a bias; adding zeros to all logits costs as much as a block.
            unembed.bias = None
        self.unembed = unembed
        self._residuals: list[Tensor] = []
        # Some blocks return the residual alone, some a tuple that begins with it; known after the first run.
        self._wrap: dict[int, Callable[[Tensor], Any]] = {}
        self._start: int | None = None
        self._entering: Tensor | None = None
        for i, block in enumerate(blocks):
            block.forward = self._gate(i, block.forward)

    def _copy_of(self, module: nn.Module) -> nn.Module:
        found: nn.Module | None = self._copies.get(id(unwrapped(module)))
        if found is None:
            raise UnknownLayoutError(f"its {type(unwrapped(module)).__name__} is no part of the wrapped model")
        return found

    def _gate(self, i: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        def gated(*args: Any, **kwargs: Any) -> Any:
            hidden: Any = args[0] if args else kwargs.get("hidden_states")
            if not isinstance(hidden, Tensor):
                raise UnknownLayoutError(f"block {i} is not entered by a residual stream")
            if self._start is None:
                if i == 0 and self._entering is not None:
                    hidden = self._entering
                    args, kwargs = _entered(hidden, args, kwargs)
                self._residuals.append(hidden)
                output = forward(*args, **kwargs)
                extra = len(output) - 1 if isinstance(output, tuple | list) else None
                self._wrap[i] = (lambda h: h) if extra is None else (lambda h: (h, *[None] * extra))
                if i == self.depth - 1:
                    self._residuals.append(output if isinstance(output, Tensor) else output[0])
                return output
            if i < self._start:
                hidden = self._entering if i == self.depth - 1 else hidden
                return self._wrap[i](hidden)
            if i == self._start:
                hidden = self._entering
            args, kwargs = _entered(hidden, args, kwargs)
            return forward(*args, **kwargs)

        return gated

    def run(
        self,
        inputs: Inputs,
        residual: Float[Tensor, "row pos d_model"] | None = None,
        edits: Mapping[str, Edit] | None = None,
    ) -> tuple[Tensor, list[Float[Tensor, "row pos d_model"]]]:
        """Return the logits, and the residual stream before each block and after the last.

        Args:
            inputs: the tokens.
            residual: what enters the first block, instead of what the tokens become.
            edits: functions that replace activations, by hook.
        """
        self._start, self._residuals, self._entering = None, [], residual
        try:
            with self._editing(tokens_of(inputs).shape, edits or {}):
                logits = self._logits(inputs)
        finally:
            self._entering = None
        residuals, self._residuals = self._residuals, []
        return logits, residuals

    def logits(
        self,
        inputs: Inputs,
        start: int,
        residual: Float[Tensor, "row pos d_model"] | None,
        edits: Mapping[str, Edit] | None = None,
    ) -> Float[Tensor, "row pos d_vocab"]:
        """Return the logits when block `start` is entered by `residual`.

        Args:
            inputs: the tokens; they still decide masks and positions.
            start: index of the first block that runs; `depth` runs the final norm and the unembedding only, and
                `EVERYTHING` all, embeddings included.
            residual: what enters that block.
            edits: functions that replace activations, by hook, in what runs.
        """
        if not self._wrap:
            self.run(inputs)
        self._start, self._entering = start, residual
        try:
            with self._editing(tokens_of(inputs).shape, edits or {}):
                return self._logits(inputs)
        finally:
            self._entering = None

    def activation(
        self,
        inputs: Inputs,
        hook: str,
        layer: int,
        residual: Float[Tensor, "row pos d_model"],
        edits: Mapping[str, Edit] | None = None,
    ) -> Float[Tensor, "row pos *width"]:
        """Return the activation at a hook of block `layer` when that block is entered by `residual`, under edits."""

        def catch(value: Tensor) -> Tensor:
            raise _Caught(value)

        try:
            self.logits(inputs, layer, residual, {**(edits or {}), hook: catch})
        except _Caught as caught:
            return caught.value
        raise UnknownLayoutError(f"block {layer} ran without passing {hook}")

    def _logits(self, inputs: Inputs) -> Tensor:
        # A key-value cache of the untouched run would be wrong after a change, and costs memory.
        return logits_of(self._module(tokens_of(inputs), use_cache=False, **arguments(self._model, inputs)))

    @contextmanager
    def _editing(self, shape: torch.Size, edits: Mapping[str, Edit]) -> Iterator[None]:
        with ExitStack() as stack:
            for hook, function in edits.items():
                if hook in self._experts:
                    mixture, experts = (self._copy_of(part) for part in self._experts[hook])
                    stack.enter_context(attached_to_experts(mixture, experts, function))
                    continue
                module, side = self._site(hook)
                edit = _unrolled(_by_head(function, self._heads[hook]) if hook in self._heads else function, shape)
                if side == "in":
                    handle = module.register_forward_pre_hook(_before(edit))
                else:
                    handle = module.register_forward_hook(_after(edit))
                stack.callback(handle.remove)
            yield

    def _site(self, hook: str) -> tuple[nn.Module, str]:
        """Return the module of the copy, and the side of it, on which a hook of the bridge lies."""
        if hook not in self._sites:
            try:
                module, side = component_at(self._model, hook)
            except LookupError as error:
                raise UnknownLayoutError(str(error)) from error
            self._sites[hook] = self._copy_of(module), side
        return self._sites[hook]


def _entered(hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a block that is entered by `hidden`."""
    return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})


def _by_head(function: Edit, heads: int) -> Edit:
    """Let a function see heads apart where they come flat."""
    return lambda value: function(value.view(*value.shape[:-1], heads, -1)).flatten(-2)


def _unrolled(function: Edit, shape: torch.Size) -> Edit:
    """Let a function see examples apart where they come in a row, as OPT's MLPs have them."""

    def edit(value: Tensor) -> Tensor:
        return function(value) if value.ndim > 2 else function(value.view(*shape, -1)).reshape(value.shape)

    return edit


def _before(function: Edit) -> Any:
    def hook(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (function(args[0]), *args[1:])

    return hook


def _after(function: Edit) -> Any:
    def hook(_: nn.Module, __: Any, output: Any) -> Any:
        if isinstance(output, tuple | list):
            return type(output)((function(output[0]), *output[1:]))
        return function(output)

    return hook
