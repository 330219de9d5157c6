"""Residual dimensions: held, zeroed and cut are one thing, in every family; a cut model is saved and opens again."""

import json
import warnings

import numpy as np
import pytest
import torch

from skilloc.models.cutting import copied
from skilloc.models.language import open_model
from skilloc.models.norms import Form
from skilloc.models.part_norm import PartLayerNorm
from skilloc.models.residual import residual_bank, residual_group
from skilloc.models.residual_cut import cut_residual, widened
from skilloc.models.residual_saved import residual_config, residual_record
from skilloc.models.saving import save_decoder
from skilloc.models.unwrapped import plain

D, CONTEXT = 32, 64
GONE = [1, 5, 6, 17, 18, 19, 20, 31]
KEEP = np.setdiff1d(np.arange(D), GONE)
_SIZES = {
    "hidden_size": D,
    "intermediate_size": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
}
_SHARED = {**_SIZES, "num_key_value_heads": 2}
_OLD = {"n_embd": D, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT, "n_inner": 44, "bos_token_id": 0}
_OPT = {
    "hidden_size": D,
    "ffn_dim": 44,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
_GEMMA = {**_SHARED, "head_dim": 8}
_GEMMA2 = {**_GEMMA, "query_pre_attn_scalar": 8, "sliding_window": 8}
_GRANITE = {"embedding_multiplier": 6.0, "residual_multiplier": 0.3, "attention_multiplier": 0.2, "logits_scaling": 0.5}
_MIXTURE = {**_SHARED, "num_experts_per_tok": 2}
DENSE = {
    "llama": ("Llama", {**_SHARED, "tie_word_embeddings": False}),
    "llama tied": ("Llama", {**_SHARED, "tie_word_embeddings": True}),
    "llama biases": ("Llama", {**_SHARED, "attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "gpt2": ("GPT2", _OLD),
    "gptj": ("GPTJ", {**_OLD, "rotary_dim": 4, "tie_word_embeddings": False}),
    "gemma": ("Gemma", _GEMMA),
    "gemma2": ("Gemma2", {**_GEMMA2, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3Text", {**_GEMMA2, "layer_types": ["sliding_attention", "full_attention"]}),
    "neox": ("GPTNeoX", {**_SIZES, "use_parallel_residual": True}),
    "opt": ("OPT", {**_OPT, "word_embed_proj_dim": D}),
    "opt after": ("OPT", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "phi3": ("Phi3", _SHARED),
    "qwen3": ("Qwen3", {**_SHARED, "head_dim": 8}),
    "olmo": ("Olmo", _SHARED),
    "olmo2": ("Olmo2", _SHARED),
    "granite": ("Granite", {**_SHARED, **_GRANITE}),
    "bloom": ("Bloom", {"hidden_size": D, "n_layer": 2, "n_head": 4, "bos_token_id": 0, "eos_token_id": 0}),
    "nemotron": ("Nemotron", _SHARED),
    "mamba": ("Mamba", {"hidden_size": D, "state_size": 4, "num_hidden_layers": 2, "pad_token_id": 0}),
}
MIXTURES = {
    "mixtral": ("Mixtral", {**_MIXTURE, "num_local_experts": 4}),
    "qwen3 mixture": ("Qwen3Moe", {**_MIXTURE, "num_experts": 4, "moe_intermediate_size": 20, "mlp_only_layers": [0]}),
    "qwen2 mixture": ("Qwen2Moe", {**_MIXTURE, "num_experts": 4, "moe_intermediate_size": 20}),
    "gpt oss": ("GptOss", {**_MIXTURE, "num_local_experts": 4, "head_dim": 8}),
}
PLAIN = ("llama", "llama tied", "llama biases", "gemma", "gemma2", "gemma3", "phi3", "qwen3", "olmo2", "granite")
"""The cut models that transformers makes by itself."""

SAVED = ("llama", "llama tied", "gpt2", "gemma2", "gemma3", "neox", "opt after", "phi3", "granite", "bloom", "mamba")

_made = {}


def configuration(name, vocabulary):
    import transformers

    kind, settings = {**DENSE, **MIXTURES}[name]
    return getattr(transformers, f"{kind}Config")(vocab_size=vocabulary, **settings)


def wrap(module):
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    return build_bridge_from_module(module, type(module).__name__, hf_config=module.config).eval()


def build(config, seed=0):
    """A model with loud weights, so that every coordinate counts, and with norms and biases off their defaults."""
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=parameter.shape[-1] ** -0.5)
                else:
                    parameter.add_(0.2 * torch.randn_like(parameter))
    return wrap(module)


def family(name):
    if name not in _made:
        _made[name] = build(configuration(name, 61))
    return _made[name]


@pytest.fixture(params=DENSE)
def dense(request):
    return family(request.param)


@pytest.fixture(params=[*DENSE, *MIXTURES])
def decoder(request):
    return family(request.param)


@pytest.fixture(scope="module")
def inputs():
    return torch.randint(0, 61, (2, 9), generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def logits(model, inputs):
    out = model(inputs)
    return out if isinstance(out, torch.Tensor) else out.logits


def held(model, inputs, gone=GONE):
    """Each place of the bank, with some coordinates at 0."""

    def zero(value, hook):
        value = value.clone()
        value[..., gone] = 0.0
        return value

    with model.hooks(fwd_hooks=[(hook, zero) for hook in residual_bank(model).places]):
        return logits(model, inputs)


@torch.no_grad()
def zeroed(model, gone=GONE):
    made = copied(model)
    views, zeros = residual_group(made)
    for name, view in views.items():
        view[gone] = zeros.get(name, 0.0)
    return made


def test_held_is_zeroed(decoder, inputs):
    before = logits(decoder, inputs)
    hold = held(decoder, inputs)
    assert (hold - before).abs().max() > 0.2
    torch.testing.assert_close(logits(zeroed(decoder), inputs), hold, atol=1e-5, rtol=0)
    assert torch.equal(logits(decoder, inputs), before)


def test_held_is_cut_and_the_plain_module_inside_is_too(dense, inputs):
    before, hold = logits(dense, inputs), held(dense, inputs)
    smaller = cut_residual(dense, KEEP)
    torch.testing.assert_close(logits(smaller, inputs), hold, atol=1e-5, rtol=0)
    torch.testing.assert_close(logits(plain(smaller), inputs), hold, atol=1e-5, rtol=0)
    assert residual_bank(smaller).width == len(KEEP)
    assert torch.equal(logits(dense, inputs), before)
    assert residual_bank(dense).width == D


@pytest.mark.parametrize("name", ["llama tied", "gpt2", "gemma3", "neox", "olmo2", "bloom"])
def test_cutting_twice_is_cutting_once_and_cutting_nothing_is_a_copy(name, inputs):
    dense = family(name)
    twice = cut_residual(cut_residual(dense, np.arange(3, D)), np.arange(5, D - 3))
    torch.testing.assert_close(
        logits(twice, inputs), logits(cut_residual(dense, np.arange(8, D)), inputs), atol=1e-5, rtol=0
    )
    same = cut_residual(dense, np.arange(D))
    assert torch.equal(logits(same, inputs), logits(dense, inputs))
    assert not {id(p) for p in same.parameters()} & {id(p) for p in dense.parameters()}


def test_every_place_is_on_the_way_to_the_logits(decoder, inputs):
    before = logits(decoder, inputs)
    bank = residual_bank(decoder)
    assert len(set(bank.places)) == len(bank.places)
    for hook in bank.places:
        # Not a constant, which the next LayerNorm would take away again.
        with decoder.hooks(fwd_hooks=[(hook, lambda value, hook: value + torch.linspace(-1, 2, D).square())]):
            assert (logits(decoder, inputs) - before).abs().max() > 1e-3, hook


def literal_llama(state):
    """The entries of coordinate d, written out: name, axis."""
    for name in state:
        if name.endswith(("embed_tokens.weight", "lm_head.weight")) or "proj.weight" in name:
            yield name, 0 if name.endswith(("o_proj.weight", "down_proj.weight")) else 1
        elif name.endswith(("layernorm.weight", "norm.weight", "o_proj.bias", "down_proj.bias")):
            yield name, 0


def literal_gpt2(state):
    # Conv1D: weights are d_in, d_out.
    for name in state:
        if name.endswith(("wte.weight", "wpe.weight", "c_proj.weight", "lm_head.weight")):
            yield name, 1
        elif name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.bias")) or ".ln_" in name:
            yield name, 0


@pytest.mark.parametrize(
    ("name", "entries"),
    [("llama", literal_llama), ("llama tied", literal_llama), ("llama biases", literal_llama), ("gpt2", literal_gpt2)]
    + [(name, literal_llama) for name in ("gemma", "gemma2")],
)
def test_held_is_plain_transformers_with_the_weights_written_out(name, entries, inputs):
    from transformers import AutoModelForCausalLM

    bridge = family(name)
    inner = plain(bridge)
    module = AutoModelForCausalLM.from_config(inner.config, attn_implementation="eager").eval()
    module.load_state_dict(inner.state_dict(), strict=False)
    state = module.state_dict()
    for entry, axis in entries(state):
        zero = -1.0 if "gemma" in name and "norm.weight" in entry else 0.0
        state[entry].index_fill_(axis, torch.tensor(GONE), zero)
    torch.testing.assert_close(held(bridge, inputs), logits(module, inputs), atol=1e-5, rtol=0)
    views, _ = residual_group(bridge)
    once = {state[entry].data_ptr(): state[entry].numel() for entry, _ in entries(state)}
    assert sum(view.numel() for view in views.values()) == sum(once.values())
    assert all(view.shape[:2] == (D, 1) for view in views.values())


def test_tied_weights_stay_tied_and_gains_have_their_zero(dense, inputs):
    smaller = cut_residual(dense, KEEP)
    tied = dense.embed.weight is dense.unembed.weight
    assert tied == bool(dense.original_model.config.tie_word_embeddings)
    assert (smaller.embed.weight is smaller.unembed.weight) == tied
    views, zeros = residual_group(dense)
    assert ("unembed.weight" in views) == (not tied)
    shifted = type(dense.original_model).__name__.startswith(("Gemma", "Nemotron"))
    norms = {name for name in views if ".ln" in f".{name}" and name.endswith("weight")}
    assert zeros == (dict.fromkeys(norms, -1.0) if shifted else {})


@pytest.mark.parametrize("name", MIXTURES)
def test_mixtures_are_held_but_not_cut(name):
    with pytest.raises(ValueError, match=r"blocks\.\d\.mlp is a mixture of experts.*hold the mask instead"):
        cut_residual(family(name), KEEP)


def test_an_rms_norm_without_a_gain_is_held_but_not_cut(inputs):
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    shape = {"n_layers": 1, "d_model": D, "n_heads": 4, "d_head": 8, "d_mlp": 40, "n_ctx": CONTEXT, "d_vocab": 61}
    settings = {**shape, "act_fn": "relu", "normalization_type": "RMSPre", "seed": 0}
    model = TransformerBridge.boot_native(TransformerBridgeConfig(**settings)).eval()
    torch.testing.assert_close(logits(zeroed(model), inputs), held(model, inputs), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"has no gain.*hold the mask instead"):
        cut_residual(model, KEEP)


@pytest.mark.parametrize("keep", [[], [3, 3], [4, 2], [-1, 2], [0, D]])
def test_keep_is_checked(keep):
    with pytest.raises(ValueError, match=r"`keep` is .* from 0 to 31, rising, at least one"):
        cut_residual(family("llama"), np.array(keep, dtype=np.int64))


def test_weights_that_nobody_knows_are_refused():
    from transformers import RecurrentGemmaConfig, XGLMConfig

    computed = XGLMConfig(vocab_size=61, d_model=D, ffn_dim=44, num_layers=1, attention_heads=4)
    with pytest.raises(ValueError, match=r"XGLM.*not known where in its model\.embed_positions\.weights"):
        residual_bank(build(computed))
    opaque = RecurrentGemmaConfig(
        **{**_SHARED, "vocab_size": 61, "lru_width": D, "attention_window_size": 8, "num_hidden_layers": 1}
    )
    with pytest.raises(ValueError, match=r"RecurrentGemma.*units of other kinds"):
        residual_bank(build(opaque))


@pytest.mark.parametrize("weighted", [True, False])
def test_a_part_of_a_layer_norm_is_the_norm_with_zeros(weighted):
    generator = torch.Generator().manual_seed(1)
    norm = torch.nn.LayerNorm(D, elementwise_affine=weighted).double()
    if weighted:
        norm.weight.data = torch.randn(D, generator=generator, dtype=torch.float64)
        norm.bias.data = torch.randn(D, generator=generator, dtype=torch.float64)
    part = PartLayerNorm(norm, torch.nn.Module, Form(True, weighted, 0.0, "eps"), D)
    if weighted:
        part.weight, part.bias = (torch.nn.Parameter(p[KEEP]) for p in (norm.weight, norm.bias))
    x = 3 + torch.randn(4, D, generator=generator, dtype=torch.float64)
    x[:, GONE] = 0
    torch.testing.assert_close(part(x[:, KEEP]), norm(x)[:, KEEP], atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "gemma"])
def test_hooks_inside_of_norms_are_honoured_in_the_cut_model(name, inputs):
    """Twice what divides, in two norms: the same in the zeroed model and in the cut one."""
    model = family(name)
    double = [(f"{hook}.hook_scale", lambda value, hook: 2 * value) for hook in ("blocks.1.ln1", "ln_final")]
    whole, smaller = zeroed(model), cut_residual(model, KEEP)
    before = logits(smaller, inputs)
    found = []
    for one in (whole, smaller):
        with warnings.catch_warnings(), one.hooks(fwd_hooks=double):
            warnings.simplefilter("ignore")
            found.append(logits(one, inputs))
    assert (found[1] - before).abs().max() > 0.1
    torch.testing.assert_close(found[1], found[0], atol=1e-5, rtol=0)


def test_a_cut_model_learns(inputs):
    """Gradients of the cut model are those of the zeroed one at what was kept: here, of a tied embedding."""
    found = []
    for one in (zeroed(family("gpt2")), cut_residual(family("gpt2"), KEEP)):
        one(inputs).square().mean().backward()
        found.append(one.embed.weight.grad)
    torch.testing.assert_close(found[1], found[0][:, KEEP], atol=1e-5, rtol=1e-4)


def test_in_bfloat16(inputs):
    for name in ("llama tied", "gpt2", "gemma"):
        model = copied(family(name)).to(torch.bfloat16)
        hold = held(model, inputs).float()
        cut = logits(cut_residual(model, KEEP), inputs)
        assert cut.dtype == torch.bfloat16
        assert (cut.float() - hold).abs().mean() < 0.05 * hold.abs().mean()


def test_widened_is_the_stock_shape_with_the_same_logits(dense, inputs):
    smaller = cut_residual(dense, KEEP)
    whole = widened(smaller)
    torch.testing.assert_close(logits(whole, inputs), logits(smaller, inputs), atol=1e-5, rtol=0)
    stock = {name: value.shape for name, value in plain(dense).state_dict().items()}
    assert {name: value.shape for name, value in plain(whole).state_dict().items()} == stock
    assert [type(module) for module in plain(whole).modules()] == [type(module) for module in plain(dense).modules()]
    views, zeros = residual_group(whole)
    assert all(bool((view[len(KEEP) :] == zeros.get(name, 0.0)).all()) for name, view in views.items())
    assert residual_record(smaller) == {"width": len(KEEP)}
    assert residual_record(whole) is None
    assert residual_record(dense) is None


@pytest.mark.parametrize("name", DENSE)
def test_transformers_makes_the_cut_model_if_it_can(name, inputs):
    from transformers import AutoModelForCausalLM

    smaller = cut_residual(family(name), KEEP)
    module = plain(smaller)
    stock = module.config.to_dict()
    config = residual_config(smaller, module, module.config)
    assert (config is not None) == (name in PLAIN)
    if config is not None:
        made = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
        made.load_state_dict(module.state_dict(), strict=False)
        torch.testing.assert_close(logits(made, inputs), logits(smaller, inputs), atol=1e-5, rtol=0)
        assert config.hidden_size == len(KEEP)
    assert module.config.to_dict() == stock
    assert residual_config(family(name), plain(family(name)), module.config) is module.config


@pytest.mark.parametrize("name", SAVED)
def test_padded_it_opens_in_plain_transformers(name, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    smaller = cut_residual(build(configuration(name, len(tokenizer))), KEEP)
    save_decoder(widened(smaller), tmp_path / "padded", tokenizer=tokenizer)
    tokens = torch.arange(10)[None] % len(tokenizer)
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "padded", attn_implementation="eager").eval()
    torch.testing.assert_close(logits(opened, tokens), logits(smaller, tokens), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", SAVED)
def test_saved_it_opens_again(name, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    smaller = cut_residual(build(configuration(name, len(tokenizer))), KEEP)
    save_decoder(smaller, tmp_path / "cut", tokenizer=tokenizer)
    config = json.loads((tmp_path / "cut" / "config.json").read_text())
    assert ("skilloc" not in config) == (name in PLAIN)
    tokens = torch.arange(10)[None] % len(tokenizer)
    again = open_model(tmp_path / "cut").model
    assert torch.equal(logits(again, tokens), logits(smaller, tokens))
    assert residual_bank(again) == residual_bank(smaller)
    if name in PLAIN:
        opened = AutoModelForCausalLM.from_pretrained(tmp_path / "cut", attn_implementation="eager").eval()
        torch.testing.assert_close(logits(opened, tokens), logits(smaller, tokens), atol=1e-5, rtol=0)
        assert config["head_dim"] == smaller.cfg.d_head
    else:
        assert config["skilloc"]["residual"] == {"width": len(KEEP)}
