"""The face of a decoder: a transformer that was opened through TransformerLens, as a `TransformerBridge`.

Its units: heads and neurons of each layer, whole attentions and MLPs ("layer"), and coordinates of the residual stream
("residual"). Which weights belong to which is in `weights`, how they are cut in `narrow`.
"""

import inspect
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from skilloc.mistakes import WrongValue
from skilloc.models.copying import copied
from skilloc.models.cutting import key_groups, narrowed
from skilloc.models.directions import pushes
from skilloc.models.experts import attached_to_experts, expert_banks, expert_weights, hook_of, mixture_of
from skilloc.models.face import Edit, Face, Left, Weights
from skilloc.models.fresh import fresh
from skilloc.models.points import attached_to
from skilloc.models.residual import residual_bank, residual_group
from skilloc.models.residual_cut import cut_residual
from skilloc.models.saving import check_savable, save_decoder
from skilloc.models.weights import architecture, banks_of, component_of, group, output_weight, place_of, unwrapped
from skilloc.tasks import IGNORE, MASK, TOKENS, Examples, Inputs
from skilloc.units import HEAD, LAYER, RESIDUAL, Bank

STREAM = "blocks.0.hook_resid_pre"
"""Where the tokens enter: the residual stream before the first block."""


def decoder_face(model: Any) -> Face:
    """Return the face of a bridge."""
    vocabulary = getattr(model.cfg, "d_vocab", None)

    def weights_of(hook: str) -> Weights:
        if hook == RESIDUAL:
            return residual_group(model)[0]
        expert = next((bank for bank in expert_banks(model) if bank.name == hook), None)
        if expert is not None:
            return expert_weights(model, expert.layer)
        layer = next((bank for bank in _layers(model) if bank.name == hook), None)
        return group(model, hook) if layer is None else _layer_weights(model, layer)

    def absorb(smaller: Any, hook: str, added: Tensor, _: Any) -> None:
        name = "o" if place_of(model, hook)[1] == HEAD else "out"
        bias = unwrapped(component_of(smaller, hook)._modules[name]).bias
        if bias is None:
            raise WrongValue(
                f"`reference` is not zero, and {hook} has an output projection without a bias to take it up; prune at "
                "zero, or hold the mask instead"
            )
        bias += added.to(bias)

    return Face(
        module=model,
        architecture=architecture(model),
        banks=lambda: (*_in_order(model), *_stream(model), *_layers(model)),
        depth=len(model.blocks),
        widest=int(vocabulary or 1),
        run=lambda inputs: logits_of(model(tokens_of(inputs), **arguments(model, inputs))),
        attached=lambda functions: _attached(model, functions),
        check=lambda examples: _check(model, examples),
        write=lambda hook: output_weight(model, hook),
        group=weights_of,
        copy=lambda: copied(model),
        probe=lambda: _probe(model),
        ends=(("tokens",), ("logits",)),
        entry=STREAM,
        blocks=tuple(model.blocks),
        stream=True,
        keys=lambda hook: key_groups(model, hook),
        zeros=lambda hook: residual_group(model)[1] if hook == RESIDUAL else {},
        cut=lambda left: _cut(model, left),
        absorb=absorb,
        save=lambda folder, tokenizer, shape: save_decoder(model, folder, tokenizer=tokenizer, shape=shape),
        savable=lambda: check_savable(model),
        fresh=lambda seed: fresh(model, seed=seed),
        pattern=lambda bank: _pattern(model, bank),
        pushes=lambda vectors: pushes(model, vectors),
    )


def _pattern(model: Any, bank: Bank) -> str | None:
    name = f"blocks.{bank.layer}.attn.hook_pattern"
    return name if bank.kind == HEAD and name in model.hook_dict else None


def _in_order(model: Any) -> tuple[Bank, ...]:
    """Return heads, neurons and experts, layer by layer."""
    return tuple(sorted((*banks_of(model), *expert_banks(model)), key=lambda bank: bank.layer))


def _stream(model: Any) -> tuple[Bank, ...]:
    """Return the residual dimensions, where it is known how they lie in all weights."""
    try:
        return (residual_bank(model),)
    except ValueError:
        return ()


def _cut(model: Any, left: Left) -> Any:
    """Return the smaller model without some neurons and heads, or without some coordinates of its stream."""
    smaller = narrowed(model, {hook: places for hook, places in left.items() if hook != RESIDUAL})
    return cut_residual(smaller, left[RESIDUAL]) if RESIDUAL in left else smaller


@contextmanager
def _attached(model: Any, functions: Mapping[str, Edit]) -> Iterator[None]:
    """Attach functions to hook points, and to the experts of mixtures."""
    layers = {hook_of(layer): layer for layer in range(len(model.blocks))}
    with ExitStack() as stack:
        for hook in functions.keys() & layers.keys():
            mixture = mixture_of(model, layers[hook])
            if mixture is None:
                raise WrongValue(f'`model` has no hook "{hook}"; build units with units_of(model)')
            stack.enter_context(attached_to_experts(*mixture, functions[hook]))
        stack.enter_context(attached_to(model, {h: f for h, f in functions.items() if h not in layers}))
        yield


def logits_of(output: Any) -> Tensor:
    """Return the logits of a model's output, which is the logits or an object that has them."""
    found: Tensor = output if isinstance(output, Tensor) else output.logits
    return found


def tokens_of(inputs: Inputs) -> Tensor:
    """Return the token ids of inputs."""
    return inputs if isinstance(inputs, Tensor) else inputs[TOKENS]


def arguments(model: Any, inputs: Inputs) -> dict[str, Tensor]:
    """Return what a padded batch needs besides its tokens: the mask, and positions that count real tokens only.

    So a row has the same numbers whether it is padded on the left or on the right.
    """
    if isinstance(inputs, Tensor):
        return {}
    mask = inputs[MASK].long()
    found = {"attention_mask": mask}
    if "position_ids" in inspect.signature(model.original_model.forward).parameters:
        found["position_ids"] = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return found


def _probe(model: Any) -> Tensor:
    """Return two short rows of random tokens."""
    generator, length = torch.Generator().manual_seed(0), min(8, int(model.cfg.n_ctx))
    tokens = torch.randint(int(model.cfg.d_vocab), (2, length), generator=generator)
    device: torch.device = next(model.parameters()).device
    return tokens.to(device)


def _layers(model: Any) -> tuple[Bank, ...]:
    """Return whole attentions and whole MLPs, each a unit."""
    found = []
    for layer, block in enumerate(model.blocks):
        for part, letter in (("attn", "A"), ("mlp", "M")):
            if part in block._modules:
                hook = f"blocks.{layer}.{part}.hook_out"
                found.append(Bank(hook, 1, LAYER, layer, f"L{layer}{letter}", axis=None))
    return tuple(found)


def _layer_weights(model: Any, bank: Bank) -> Weights:
    """Return all weights of an attention or an MLP, as one unit."""
    part = model.blocks[bank.layer]._modules["attn" if bank.label.endswith("A") else "mlp"]
    return {name: parameter.view(1, 1, *parameter.shape) for name, parameter in part.named_parameters()}


def _check(model: Any, examples: Examples) -> None:
    tokens = examples.tokens
    if tokens is None:
        raise WrongValue(
            f"`model` is a {architecture(model)}, which takes tokens, but the examples have {examples.first.dtype} "
            f"inputs of shape {tuple(examples.first.shape)}; draw them from texts or prompts"
        )
    length, context = tokens.shape[1], getattr(model.cfg, "n_ctx", None)
    if context and length > context:
        cure = (
            "use a shorter `length`"
            if examples.mask is None
            else "leave out the longest prompts, or show fewer `shots`"
        )
        raise WrongValue(f"sequences have {length} tokens but the context of `model` is {context}; {cure}")
    highest, vocabulary = int(tokens.max()), getattr(model.cfg, "d_vocab", None)
    if vocabulary and vocabulary > 0 and highest >= vocabulary:
        raise WrongValue(
            f"the batch holds token {highest} but `model` has {vocabulary} tokens; use the tokenizer of this model"
        )
    targets = examples.targets
    if targets.shape != tokens.shape:
        raise WrongValue(
            f"`targets` has shape {tuple(targets.shape)} but `model` is a {architecture(model)}, which predicts a "
            f"token at each of {tuple(tokens.shape)}; pass the next token of every position, and IGNORE where there is "
            "none"
        )
    scored = targets[targets != IGNORE]
    low, high = (int(one) for one in scored.aminmax())
    if low < 0 or (vocabulary and 0 < vocabulary <= high):
        raise WrongValue(
            f"`targets` go from {low} to {high} but `model` has {vocabulary} tokens, counted from 0; use the tokenizer "
            "of this model, and IGNORE where none is scored"
        )
