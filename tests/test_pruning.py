from contextlib import ExitStack

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from skilloc.ablation import ablation_effects, mask_effects
from skilloc.experiment import (
    Experiment,
    flat_mean_reference,
    given_reference,
    hold,
    mean_reference,
    resample_reference,
    zero_reference,
)
from skilloc.masks import Mask
from skilloc.masks import sample as sample_units
from skilloc.models.copying import copied
from skilloc.models.language import open_model
from skilloc.models.makers import group, units_of, zeroed
from skilloc.models.mlp import MLP
from skilloc.pruning import Keep, keep, prune, remaining
from skilloc.pruning.keeping import dropped_weights
from skilloc.tasks import Examples
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import TrainConfig, train


def random_mask(units, share=0.4, seed=0):
    return Mask(units, ~sample_units(units, int(share * len(units)), seed=seed))


def held_logits(model, mask, reference, inputs):
    with torch.no_grad(), hold(model, mask, reference):
        return model(inputs)


def zeroed_logits(model, mask, inputs):
    with ExitStack() as stack, torch.no_grad():
        for hook, kept in mask.units.split(mask.keep).items():
            stack.enter_context(zeroed(model, hook, np.flatnonzero(~kept).tolist()))
        return model(inputs)


def batch_of(tokens):
    return Examples(tokens[:, :-1], tokens[:, 1:].clone())


def check_three_ways(model, mask, inputs, batch):
    reference = zero_reference(mask.units)
    held = held_logits(model, mask, reference, inputs)
    smaller = prune(model, mask)
    with torch.no_grad():
        pruned = smaller(inputs)
        full = model(inputs)
    torch.testing.assert_close(zeroed_logits(model, mask, inputs), held, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pruned, held, atol=1e-5, rtol=1e-5)
    assert (held - full).abs().max() > 1e-3  # else the comparison says nothing
    left = remaining(model, mask)
    assert (left | ~mask.keep).all()
    count = sum(p.numel() for p in smaller.parameters())
    assert count < sum(p.numel() for p in model.parameters())
    check_effects(model, smaller, mask, batch)
    return smaller


def check_effects(model, smaller, mask, batch):
    """Effects measured on the pruned model are, for kept units, those on the held one; zeros that stay have none."""
    left, units = remaining(model, mask), units_of(smaller, kinds=set(mask.units.kinds))
    assert len(units) == left.sum()
    rng = np.random.default_rng(0)
    some = rng.choice(np.flatnonzero(mask.keep), min(4, mask.keep.sum()), replace=False)
    blank = np.flatnonzero(left & ~mask.keep)[:2]
    place = np.cumsum(left) - 1
    select = np.isin(np.arange(len(units)), place[[*some, *blank]])
    found = ablation_effects(Experiment(smaller, {"text": batch}, units=units, folds=2), select=select)
    without = [Mask(mask.units, mask.keep & (np.arange(len(mask.keep)) != unit)) for unit in some]
    experiment = Experiment(model, {"text": batch}, units=mask.units, folds=2)
    wanted, _ = mask_effects(experiment, [mask, *without])
    np.testing.assert_allclose(found.values[:, 0, place[some]].T, (wanted[1:] - wanted[0])[..., 0], atol=1e-5)
    assert np.abs(wanted[1:] - wanted[0]).max() > 1e-4  # else the comparison says nothing
    assert np.abs(found.values[..., place[blank]]).max(initial=0) < 1e-6


@pytest.mark.parametrize("kinds", [("neuron",), ("head",), ("neuron", "head")])
def test_held_zeroed_and_pruned_are_one(any_model, tokens, kinds, caplog):
    mask = random_mask(units_of(any_model, kinds=kinds), seed=3)
    check_three_ways(any_model, mask, tokens, batch_of(tokens))
    assert "slow" not in caplog.text  # the fast routes take the smaller model too


def test_held_zeroed_and_pruned_are_one_for_the_embedded_model():
    opened = open_model("embedded")
    inputs = torch.randint(300, (4, 24), generator=torch.Generator().manual_seed(0))
    check_three_ways(opened.model, random_mask(units_of(opened.model), seed=1), inputs, batch_of(inputs))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("depth", [2, 3, 4])
def test_held_zeroed_and_pruned_are_one_for_an_mlp(activation, depth):
    model = MLP(9, 3, 20, depth, activation=activation)
    units = units_of(model)
    keep_ = np.random.default_rng(depth).random(len(units)) < np.repeat(np.linspace(0.3, 0.7, depth - 1), 20)
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(50, 9, generator=generator)
    batch = Examples(inputs, torch.randint(3, (50,), generator=generator))
    smaller = check_three_ways(model, Mask(units, keep_), inputs, batch)
    assert smaller.cfg.widths == tuple(part.sum() for part in units.split(keep_).values())
    again = prune(smaller, random_mask(units_of(smaller), seed=1))
    assert len(units_of(again)) < len(units_of(smaller))


def test_a_pruned_model_is_pruned_again(any_model, tokens):
    units = units_of(any_model)
    first = prune(any_model, random_mask(units, 0.3, seed=5))
    second = random_mask(units_of(first), 0.5, seed=6)
    held = held_logits(first, second, zero_reference(second.units), tokens)
    with torch.no_grad():
        torch.testing.assert_close(prune(first, second)(tokens), held, atol=1e-5, rtol=0)


def test_a_layer_may_lose_everything(any_model, tokens):
    units = units_of(any_model)
    mask = Mask(units, units.layers != 1)
    smaller = prune(any_model, mask)
    held = held_logits(any_model, mask, zero_reference(units), tokens)
    with torch.no_grad():
        torch.testing.assert_close(smaller(tokens), held, atol=1e-5, rtol=0)
    widths = dict(zip(units_of(smaller).hooks, units_of(smaller).widths, strict=True))
    assert widths["blocks.1.mlp.hook_post"] == 1
    assert not any(view.any() for view in group(smaller, "blocks.1.mlp.hook_post").values())
    assert (remaining(any_model, mask) & ~mask.keep).sum() == 2  # one head, one neuron
    # An MLP too: the layers before an empty one are dead.
    network = MLP(4, 2, 6, 3)
    mask = Mask(units_of(network), np.repeat([False, True], 6))
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    held = held_logits(network, mask, zero_reference(mask.units), inputs)
    with torch.no_grad():
        torch.testing.assert_close(prune(network, mask)(inputs), held)


def test_shared_keys_go_with_the_last_head_that_reads_them(llama):
    # Four heads: 0 and 1 read one key, 2 and 3 the other.
    units = units_of(llama, kinds=("head",))

    def pruned(*kept):
        keep_ = np.tile(np.isin(np.arange(4), kept), 3)
        smaller = prune(llama, Mask(units, keep_))
        attention = smaller.blocks[1].attn
        rows = {name: len(getattr(attention, name).weight) // 8 for name in "qkv"}
        return rows, remaining(llama, Mask(units, keep_))[:4].tolist()

    assert pruned(0, 1) == ({"q": 2, "k": 1, "v": 1}, [True, True, False, False])
    assert pruned(1, 2) == ({"q": 2, "k": 2, "v": 2}, [False, True, True, False])
    assert pruned(3) == ({"q": 1, "k": 1, "v": 1}, [False, False, False, True])
    # Three heads on two keys: one that is dropped stays as zeros, since there is one number of heads per key.
    assert pruned(0, 1, 3) == ({"q": 4, "k": 2, "v": 2}, [True, True, True, True])


def test_means_go_into_biases(gpt2, neox, tokens):
    for model in (gpt2, neox):
        mask = random_mask(units_of(model), seed=2)
        reference = flat_mean_reference(model, {"text": batch_of(tokens.flip(0))}, mask.units)
        held = held_logits(model, mask, reference, tokens)
        with torch.no_grad():
            found = prune(model, mask, reference=reference)(tokens)
        torch.testing.assert_close(found, held, atol=1e-5, rtol=0)
        assert (held - held_logits(model, mask, zero_reference(mask.units), tokens)).abs().max() > 1e-2
    network = MLP(4, 2, 6, 3)
    mask = Mask(units_of(network), np.tile([True, False, False], 4))
    inputs = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    values = np.arange(12, dtype=float)
    with torch.no_grad():
        found = prune(network, mask, reference=values)(inputs)
    torch.testing.assert_close(found, held_logits(network, mask, given_reference(mask.units, values), inputs))


def test_what_cannot_be_pruned_says_what_to_do(llama, gpt2, tokens):
    mask = random_mask(units_of(llama), seed=2)
    batches = {"text": batch_of(tokens)}
    with pytest.raises(ValueError, match="zero, or hold the mask"):
        prune(llama, mask, reference=flat_mean_reference(llama, batches, mask.units))
    other = random_mask(units_of(gpt2), seed=2)
    for varying in (resample_reference(gpt2, batches, other.units, seed=0), mean_reference(gpt2, batches, other.units)):
        with pytest.raises(ValueError, match="at zero or a flat mean, or hold"):
            prune(gpt2, other, reference=varying)
    for act in (prune, keep, remaining):
        with pytest.raises(ValueError, match="build masks from units_of"):
            act(llama, other)


OPTIMISERS = ("sgd", "adam", "adamw")


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@given(seed=st.integers(0, 2**31), share=st.floats(0.05, 0.95))
@settings(max_examples=2, deadline=None, phases=[Phase.generate])
def test_a_mask_survives_a_thousand_steps(optimiser, seed, share):
    subtasks = parity_subtasks(6, atoms=2, k=2, composites=[(0, 1)])
    model = MLP(8, 2, 12, 3, seed=seed % 100)
    mask = random_mask(units_of(model), share, seed=seed)
    rules = [keep(model, mask), Watch(model, mask)]
    config = TrainConfig(1000, rate=0.02, optimiser=optimiser, weight_decay=0.1, evaluate_every=1000)
    batch = subtasks["composite_01"].draw(20, split="selection")
    train(model, parity_stream(subtasks.values(), 8, seed=0), config, evaluate={"both": batch}, rules=rules)
    assert rules[1].steps == 1000


class Watch:
    """Looks at the weights and the optimiser's memory of dropped units after each step: exactly zero."""

    def __init__(self, model, mask):
        self.model, self.steps = model, 0
        self.views = {hook: list(group(model, hook).values()) for hook in mask.units.hooks}
        self.gone = {hook: np.flatnonzero(~kept).tolist() for hook, kept in mask.units.split(mask.keep).items()}
        self.kept = {hook: np.flatnonzero(kept).tolist() for hook, kept in mask.units.split(mask.keep).items()}

    def after_step(self, optimiser):
        self.steps += 1
        for hook, gone in self.gone.items():
            assert not any(view[gone].any() for view in self.views[hook])
        if self.steps % 250:
            return
        memory, felt = copied(self.model), copied(self.model)
        with torch.no_grad():
            for parameter, own in zip(felt.parameters(), self.model.parameters(), strict=True):
                parameter.copy_(torch.zeros_like(own) if own.grad is None else own.grad)
        states = [optimiser.state[p] for p in self.model.parameters() if p in optimiser.state]
        names = {name for state in states for name, value in state.items() if value.ndim}
        assert names
        for name in names:
            with torch.no_grad():
                for parameter, own in zip(memory.parameters(), self.model.parameters(), strict=True):
                    parameter.copy_(optimiser.state[own][name] if own in optimiser.state else parameter)
            assert any(state[name].any() for state in states)
            for hook, gone in self.gone.items():
                for view in group(memory, hook).values():
                    assert not view[gone].any()
                # Of kept units that are dead on every example, the memory may have faded to zero.
                large = any((view[self.kept[hook]].abs() > 1e-4).any() for view in group(felt, hook).values())
                assert not large or any(view[self.kept[hook]].any() for view in group(memory, hook).values())

    def after_evaluation(self, row):
        return {}

    def state(self):
        return {}

    def restore(self, state):
        pass


@pytest.mark.parametrize("optimiser", OPTIMISERS)
def test_a_mask_survives_training_of_any_family(any_model, tokens, optimiser, caplog):
    model = copied(any_model)
    mask = random_mask(units_of(model), seed=4)
    rules = [keep(model, mask), Watch(model, mask)]
    rules[1].steps = 240  # its closest look comes after ten steps
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    batch = batch_of(tokens)
    config = TrainConfig(12, rate=1e-3, optimiser=optimiser, weight_decay=0.1, evaluate_every=12)
    train(model, lambda _: batch, config, evaluate={"text": batch}, rules=rules)
    held = held_logits(model, mask, zero_reference(mask.units), tokens)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), held, atol=1e-6, rtol=0)
        torch.testing.assert_close(prune(model, mask)(tokens), held, atol=1e-5, rtol=0)
    # What was trained is what is measured, by the fast routes: no fused matrix has gone stale.
    own = Experiment(model, {"text": batch}, units=mask.units, folds=2)
    ablation_effects(own, select=np.arange(len(mask.keep)) == 0)
    assert "slow" not in caplog.text


class Once:
    """Zeroes weights after one step, and leaves it at that."""

    def __init__(self, rule, step):
        self.rule, self.left = rule, step

    def after_step(self, optimiser):
        self.left -= 1
        if self.left == 0:
            self.rule.zero()

    def after_evaluation(self, row):
        return {}

    def state(self):
        return {}

    def restore(self, state):
        pass


def test_momentum_brings_back_what_is_only_zeroed_once():
    subtasks = parity_subtasks(6, atoms=2, k=2)
    batch = subtasks["parity_0"].draw(20)
    for optimiser in OPTIMISERS:
        model = MLP(8, 2, 12, 3)
        mask = random_mask(units_of(model), 0.5)
        rule = Once(Keep(dropped_weights(model, mask)), step=10)
        config = TrainConfig(12, rate=0.02, optimiser=optimiser)
        train(model, parity_stream(subtasks.values(), 8, seed=0), config, evaluate={"a": batch}, rules=[rule])
        views = [parameter[gone] for parameter, gone in rule.rule.dropped.items()]
        assert all(view.any() for view in views), optimiser


def test_a_copy_runs_by_its_own_functions(tokens):
    """transformer-lens replaces `forward` of Falcon's linear maps by a function that holds the first one's weights."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import FalconConfig, FalconForCausalLM

    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "max_position_embeddings": 64}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FalconForCausalLM(FalconConfig(vocab_size=61, initializer_range=0.2, **sizes))
    model.set_attn_implementation("eager")
    bridge = build_bridge_from_module(model, "FalconForCausalLM", hf_config=model.config).eval()
    mask = random_mask(units_of(bridge, kinds=("neuron",)))
    with torch.no_grad():
        wanted = bridge(tokens)
        torch.testing.assert_close(copied(bridge)(tokens), wanted)
        held = held_logits(bridge, mask, zero_reference(mask.units), tokens)
        torch.testing.assert_close(prune(bridge, mask)(tokens), held, atol=1e-5, rtol=1e-5)
        assert (held - wanted).abs().max() > 1e-3
        other = copied(bridge)
        for parameter in other.parameters():
            parameter.zero_()
        assert not other(tokens).any()
        torch.testing.assert_close(bridge(tokens), wanted, atol=0, rtol=0)


def test_a_copy_has_hooks_of_its_own(any_model, tokens):
    """Blocks of a bridge attach hooks to themselves when they first run; those of a copy must not reach back."""
    with torch.no_grad():
        wanted = any_model(tokens)
    other = copied(any_model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
        assert torch.equal(any_model(tokens), wanted)
        assert not torch.equal(other(tokens), wanted)
        mine = {id(module) for module in any_model.modules()}
    for module in other.modules():
        assert id(module) not in mine
