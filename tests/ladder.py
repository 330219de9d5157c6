"""Tiny transformers whose circuits are known, because their weights are written by hand.

The residual stream is made of slots, each as wide as the vocabulary but for the positions: the token, the position, the
token before, what is said, and one that nobody reads. Heads and neurons that are not planted write into that last one.
"""

import math

import torch
from torch import Tensor, nn

import skilloc as sk

VOCABULARY, LENGTH, SHARP = 12, 16, 60.0
TOKEN, PLACE = slice(0, VOCABULARY), slice(VOCABULARY, VOCABULARY + LENGTH)
BEFORE, SAID, UNREAD = (slice(PLACE.stop + k * VOCABULARY, PLACE.stop + (k + 1) * VOCABULARY) for k in range(3))
WIDTH = UNREAD.stop


class Heads(nn.Module):
    """Causal attention; `z` is what each head has found, `row pos head d_head`."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.query, self.key = (nn.Parameter(torch.zeros(heads, WIDTH, WIDTH)) for _ in range(2))
        self.value, self.write = (
            nn.Parameter(torch.zeros(heads, WIDTH, WIDTH)),
            nn.Parameter(torch.zeros(heads, WIDTH, WIDTH)),
        )
        self.z = nn.Identity()

    def forward(self, stream: Tensor) -> Tensor:
        query, key, value = (torch.einsum("bpd,hde->bphe", stream, w) for w in (self.query, self.key, self.value))
        scores = torch.einsum("bphe,bshe->bhps", query, key)
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        pattern = scores.masked_fill(~causal, -math.inf).softmax(dim=-1)
        found = self.z(torch.einsum("bhps,bshe->bphe", pattern, value))
        return torch.einsum("bphe,hed->bpd", found, self.write)


class Ladder(nn.Module):
    """Two blocks of attention, then one layer of neurons, then what is said."""

    def __init__(self, heads: int = 3, neurons: int = 8) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first, self.second = Heads(heads), Heads(heads)
        self.inside, self.act, self.outside = nn.Linear(WIDTH, neurons), nn.ReLU(), nn.Linear(neurons, WIDTH)
        with torch.no_grad():
            for layer in (self.first, self.second):
                for weight in (layer.query, layer.key, layer.value):
                    weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
                layer.write[:, :, UNREAD] = torch.randn(heads, WIDTH, VOCABULARY, generator=generator)
            self.inside.weight.copy_(torch.randn(self.inside.weight.shape, generator=generator))
            self.inside.weight[:, UNREAD] = 0
            self.inside.bias.zero_()
            self.outside.weight.zero_()
            self.outside.weight[UNREAD] = torch.randn(VOCABULARY, neurons, generator=generator)
            self.outside.bias.zero_()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, tokens: Tensor) -> Tensor:
        stream = torch.zeros(*tokens.shape, WIDTH, device=tokens.device)
        stream[..., TOKEN] = nn.functional.one_hot(tokens, VOCABULARY).float()
        stream[..., PLACE] = torch.eye(LENGTH)[: tokens.shape[1]]
        stream = stream + self.first(stream)
        stream = stream + self.second(stream)
        stream = stream + self.outside(self.act(self.inside(stream)))
        return stream[..., SAID] * self.scale


@torch.no_grad()
def plant_head(layer: Heads, head: int, query: tuple[slice, Tensor], key: slice, value: slice, write: slice) -> None:
    """Let a head attend where `query` matches `key`, and copy one slot into another."""
    for weight in (layer.query, layer.key, layer.value, layer.write):
        weight[head] = 0
    size = key.stop - key.start
    layer.query[head][query[0], :size] = SHARP * query[1]
    layer.key[head][key, :size] = torch.eye(size)
    width = value.stop - value.start
    layer.value[head][value, :width] = torch.eye(width)
    layer.write[head][:width, write] = torch.eye(width)


def described(model: Ladder) -> nn.Module:
    """Return a ladder with its heads and neurons named: 0 to 5 are heads, then come the neurons."""
    places = {
        "first": sk.At("first.z", axis=-2, kind="head"),
        "second": sk.At("second.z", axis=-2, kind="head"),
        "act": sk.At("act", axis=-1, kind="neuron"),
    }
    return sk.describe(model, places, example=torch.zeros(1, 4, dtype=torch.int64)).eval()


def shifted() -> Tensor:
    """Position t asks for position t - 1."""
    shift = torch.zeros(LENGTH, LENGTH)
    shift[torch.arange(1, LENGTH), torch.arange(LENGTH - 1)] = 1
    return shift


def induction() -> nn.Module:
    """A previous-token head (head 1 of the first block) and an induction head (head 2 of the second)."""
    model = Ladder()
    plant_head(model.first, 1, (PLACE, shifted()), PLACE, TOKEN, BEFORE)
    plant_head(model.second, 2, (TOKEN, torch.eye(VOCABULARY)), BEFORE, TOKEN, SAID)
    return described(model)


def previous() -> nn.Module:
    """A previous-token head alone (head 0 of the second block), which says the token before."""
    model = Ladder()
    plant_head(model.second, 0, (PLACE, shifted()), PLACE, TOKEN, SAID)
    return described(model)


@torch.no_grad()
def fact(key: int = 4, value: int = 7) -> nn.Module:
    """One neuron (3) that fires on one token and says another."""
    model = Ladder()
    model.inside.weight[3], model.outside.weight[:, 3] = 0, 0
    model.inside.weight[3, key] = 1.0
    model.outside.weight[SAID.start + value, 3] = 1.0
    return described(model)


OPEN, CLOSE, UNBALANCED, BALANCED = 0, 1, 2, 3


@torch.no_grad()
def counter() -> nn.Module:
    """A head (0 of the first block) that takes the mean of +1 and -1 over the brackets, and a neuron (5) that says that
    some are open."""
    model = Ladder()
    for weight in (model.first.query, model.first.key, model.first.value, model.first.write):
        weight[0] = 0
    model.first.value[0, OPEN, 0], model.first.value[0, CLOSE, 0] = 1.0, -1.0
    model.first.write[0, 0, BEFORE.start] = 1.0
    model.inside.weight[5], model.outside.weight[:, 5] = 0, 0
    model.inside.weight[5, BEFORE.start] = 2.0
    model.outside.weight[SAID.start + UNBALANCED, 5] = 1.0
    model.outside.bias[SAID.start + BALANCED] = 0.5
    return described(model)
