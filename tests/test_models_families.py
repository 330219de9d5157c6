"""Opening, copying, cutting, saving and fresh networks: the same for every family, compared with plain transformers."""

import copy

import numpy as np
import pytest
import torch
from decoders import FAMILIES, configured, made

from skilloc.experiment.suffix import Suffix
from skilloc.models.copying import copied
from skilloc.models.cutting import key_groups
from skilloc.models.fresh import fresh
from skilloc.models.language import open_model
from skilloc.models.makers import face_of, save_model
from skilloc.models.unwrapped import plain
from skilloc.models.weights import banks_of
from skilloc.models.wrapping import wrapped
from skilloc.units import HEAD, NEURON

WHOLE = ("bloom", "olmo2", "olmoe")
"""Families whose heads cannot be cut out: their attention counts on all of them."""

HOMELESS = ("gptj", "qwen2", "stablelm", "falcon, one key", "falcon, new", "falcon, one norm")
"""Families that have no bias of an attention's output, where compatibility mode puts what cut heads wrote."""

SIZE = 300

_bridges: dict = {}


SELDOM = ("neox", "opt, norm after", "falcon, one norm", "qwen3", "gemma1", "gemma3", "nemotron", "granite", "olmoe")
"""Families whose like is there too; what is special about them has a test of its own."""


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.long] * (name in SELDOM)) for name in FAMILIES])
def family(request):
    return request.param


def bridge_of(family):
    if family not in _bridges:
        _bridges[family] = wrapped(made(family, SIZE), family)
    return _bridges[family]


@pytest.fixture
def bridge(family):
    return bridge_of(family)


@pytest.fixture(scope="module")
def words(new_tokenizer):
    return new_tokenizer(SIZE)


@torch.no_grad()
def logits(model, tokens):
    output = model(tokens)
    return output if isinstance(output, torch.Tensor) else output.logits


def near(found, wanted, tolerance=1e-5):
    assert (found - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max()))


def cut(model, kinds):
    """Return a model without some units, other numbers in every layer, and what it must compute."""
    face, left, silent = face_of(model), {}, {}
    for bank in banks_of(model):
        if bank.kind not in kinds:
            continue
        keep = np.ones(bank.width, dtype=bool)
        if bank.kind == NEURON:
            keep[: 5 + 3 * bank.layer] = False
        else:
            keys = keep.reshape(key_groups(model, bank.name), -1)
            keys[:, 0] = bank.layer > 0 or keys.shape[1] == 1  # the first layer loses a head of each key
            keys[0] &= bank.layer == 0 or len(keys) == 1  # the others lose a key
        gone = torch.from_numpy(np.flatnonzero(~keep))
        left[bank.name] = np.flatnonzero(keep)
        silent[bank.name] = lambda value, gone=gone, axis=bank.axis: value.index_fill(axis, gone, 0)
    return face.cut(left), silent


def held(model, silent, tokens):
    with face_of(model).attached(silent):
        return logits(model, tokens)


def kinds_of(family, model):
    there = {bank.kind for bank in banks_of(model)}
    return tuple(kind for kind in (NEURON, HEAD) if kind in there and not (kind == HEAD and family in WHOLE))


def test_a_bridge_computes_what_transformers_does(family, bridge, tokens):
    near(logits(bridge, tokens), logits(made(family, SIZE), tokens))


def test_a_copy_has_weights_of_its_own(bridge, tokens):
    before = logits(bridge, tokens)
    other = copied(bridge)
    assert torch.equal(logits(other, tokens), before)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert not torch.equal(logits(other, tokens), before)
    assert torch.equal(logits(bridge, tokens), before)
    with torch.enable_grad():
        other(tokens).square().mean().backward()
    assert all(parameter.grad is None for parameter in bridge.parameters())
    assert all(parameter.grad is None for parameter in bridge.original_model.parameters())


def test_what_was_not_cut_is_saved_as_it_is(family, bridge, words, tokens, tmp_path):
    from transformers import AutoModelForCausalLM

    save_model(bridge, tmp_path / "model", tokenizer=words)
    assert torch.equal(logits(open_model(tmp_path / "model").model, tokens), logits(bridge, tokens))
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "model", attn_implementation="eager").state_dict()
    own = made(family, SIZE).state_dict()
    assert set(again) == set(own)
    assert all(torch.equal(value, again[name]) for name, value in own.items())


def test_a_cut_model_opens_with_equal_logits(family, bridge, words, tokens, tmp_path):
    smaller, silent = cut(bridge, kinds_of(family, bridge))
    wanted, state = held(bridge, silent, tokens), torch.random.get_rng_state()
    near(logits(smaller, tokens), wanted)
    for shape in ("as it is", "rectangular", "padded"):
        save_model(smaller, tmp_path / shape, tokenizer=words, shape=shape)
        assert torch.equal(torch.random.get_rng_state(), state)
        near(logits(open_model(tmp_path / shape).model, tokens), wanted)
    sizes = [check_plain(tmp_path / shape, tokens, wanted) for shape in ("rectangular", "padded")]
    full = sum(parameter.numel() for parameter in made(family, SIZE).parameters())
    # The widths of these MLPs follow from the width of the stream, so that no configuration makes them smaller.
    fixed = family in ("gpt1", "bloom") or NEURON not in kinds_of(family, bridge)
    assert sizes[1] == full
    assert sizes[0] == full if fixed else sizes[0] < full


def check_plain(folder, tokens, wanted):
    """Compare with what plain transformers opens, and return the number of its weights."""
    from transformers import AutoModelForCausalLM

    stock, said = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    assert not any(said.values())
    near(logits(stock, tokens), wanted)
    return sum(parameter.numel() for parameter in stock.parameters())


def test_compatibility_mode_is_saved_with_equal_logits(family, words, tokens, tmp_path):
    model = copied(bridge_of(family))
    before = logits(model, tokens).log_softmax(-1)
    model.enable_compatibility_mode(disable_warnings=True)
    near(logits(model, tokens).log_softmax(-1), before)
    save_model(model, tmp_path / "whole", tokenizer=words)
    check_plain(tmp_path / "whole", tokens, logits(model, tokens))
    near(logits(open_model(tmp_path / "whole").model, tokens), logits(model, tokens))
    smaller, silent = cut(model, kinds_of(family, model))
    wanted = held(model, silent, tokens)
    save_model(smaller, tmp_path / "cut", tokenizer=words)
    near(logits(open_model(tmp_path / "cut").model, tokens), wanted)
    if family in HOMELESS:
        with pytest.raises(ValueError, match=r"has no place.*save it with shape"):
            save_model(smaller, tmp_path / "padded", tokenizer=words, shape="padded")
    else:
        save_model(smaller, tmp_path / "padded", tokenizer=words, shape="padded")
        check_plain(tmp_path / "padded", tokens, wanted)


def test_weights_without_a_place_are_not_left_out_in_silence(words, tokens, tmp_path):
    from transformers import AutoModelForCausalLM

    model = copied(bridge_of("qwen2"))
    model.enable_compatibility_mode(disable_warnings=True)
    with torch.no_grad():  # no combination of values, whatever heads there are
        for block in model.blocks:
            block.attn.o.bias.copy_(torch.linspace(-1, 1, 32))
    save_model(model, tmp_path / "model", tokenizer=words)
    near(logits(open_model(tmp_path / "model").model, tokens), logits(model, tokens))
    with pytest.raises(OSError, match=r"no file named model\.safetensors"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_network_is_one_of_its_family(family):
    from transformers import AutoModelForCausalLM

    bridge = bridge_of(family)
    state = torch.random.get_rng_state()
    found, again, other = (plain(fresh(bridge, seed=seed)).state_dict() for seed in (5, 5, 6))
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        wanted = AutoModelForCausalLM.from_config(configured(family, SIZE)).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in found.items())
    drawn = 0
    for name, value in wanted.items():
        assert found[name].shape == value.shape
        spread = float(value.float().std()) if value.numel() > 1 else 0.0
        if spread == 0 or not value.is_floating_point() or "inv_freq" in name or value.ndim < 2:
            assert torch.equal(found[name], value), name  # gains, biases and tables
            continue
        drawn += 1
        assert abs(float(found[name].std()) / spread - 1) < 6 / value.numel() ** 0.5, name
        assert not torch.equal(found[name], other[name])
    assert drawn


def test_a_fresh_network_has_the_shape_of_a_pruned_one(family, bridge, tokens):
    smaller, _ = cut(bridge, kinds_of(family, bridge))
    found = fresh(smaller, seed=0)
    assert banks_of(found) == banks_of(smaller)
    shapes = {name: parameter.shape for name, parameter in smaller.named_parameters()}
    assert {name: parameter.shape for name, parameter in found.named_parameters()} == shapes
    assert torch.isfinite(logits(found, tokens)).all()
    assert not found.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_suffix_runs_alone(family, tokens, dtype):
    model = wrapped(made(family, SIZE).to(dtype), family)
    fine = 3e-5 if dtype == torch.float32 else 0.03
    wanted, suffix = logits(model, tokens), Suffix(model)
    found, residuals = suffix.run(tokens)
    near(found, wanted, fine)
    for start, residual in enumerate(residuals):
        near(suffix.logits(tokens, start, residual), wanted, fine)
    for bank in face_of(model).banks():
        if bank.kind not in (NEURON, HEAD, "layer"):
            continue
        silence = {bank.name: lambda value: value.clone().index_fill_(-1, torch.arange(5), 0)}
        with face_of(model).attached(silence):
            changed = logits(model, tokens)
        near(suffix.logits(tokens, bank.layer, residuals[bank.layer], silence), changed, fine)
        assert suffix.activation(tokens, bank.name, bank.layer, residuals[bank.layer]).ndim == (
            4 if bank.kind == HEAD else 3
        )


def test_families_that_are_no_decoders_are_refused_in_a_sentence(words, tmp_path):
    from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": SIZE, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = BertForMaskedLM(BertConfig(**sizes, intermediate_size=44, is_decoder=False))
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=SIZE, d_model=32, d_ff=44, num_layers=2, num_heads=4, d_kv=8))
    for name, model in (("bert", bert), ("t5", t5)):
        model.save_pretrained(tmp_path / name)
        words.save_pretrained(tmp_path / name)
        with pytest.raises(ValueError, match=r"open a decoder|as a language model") as caught:
            open_model(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_form_that_does_not_fit_its_bridge_is_refused_in_a_sentence(tokens):
    model = made("gpt2", SIZE)
    odd = copy.deepcopy(model)
    del odd.transformer.h[0].mlp.c_fc
    with pytest.raises(ValueError, match=r"in a form that transformer-lens does not wrap.*open another form"):
        wrapped(odd, "odd")
