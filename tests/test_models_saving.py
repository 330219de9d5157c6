import json

import numpy as np
import pytest
import torch

from skilloc.masks import Mask, sample
from skilloc.models.copying import copied
from skilloc.models.language import digest, open_model
from skilloc.models.makers import save_model, units_of
from skilloc.models.mlp import MLP
from skilloc.models.saving import saved_widths
from skilloc.pruning import prune


def logits(model, inputs):
    with torch.no_grad():
        return model(inputs)


@pytest.fixture(scope="session", params=["llama", "gpt2", "neox", "phi3"])
def family(request, tokenizer):
    """A model of transformers whose vocabulary is the tokenizer's."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        GPTNeoXConfig,
        GPTNeoXForCausalLM,
        LlamaConfig,
        LlamaForCausalLM,
        Phi3Config,
        Phi3ForCausalLM,
    )

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
    size, length = len(tokenizer), 64
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if request.param == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=32, n_layer=2, n_head=4, n_positions=length))
        elif request.param == "neox":
            model = GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=size, max_position_embeddings=length, **sizes))
        else:
            grouped = {"vocab_size": size, "num_key_value_heads": 2, "max_position_embeddings": length, **sizes}
            if request.param == "phi3":
                model = Phi3ForCausalLM(Phi3Config(pad_token_id=0, bos_token_id=0, eos_token_id=0, **grouped))
            else:
                model = LlamaForCausalLM(LlamaConfig(**grouped))
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    model.set_attn_implementation("eager")
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config).eval()


@pytest.mark.parametrize("kinds", [("neuron",), ("head",), ("neuron", "head")])
def test_layers_of_different_widths_open_again(family, tokenizer, tokens, tmp_path, kinds):
    units = units_of(family, kinds=kinds)
    smaller = prune(family, Mask(units, ~sample(units, len(units) // 2, seed=2)))
    save_model(smaller, tmp_path / "model", tokenizer=tokenizer)
    state = torch.random.get_rng_state()
    again = open_model(tmp_path / "model")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(logits(again.model, tokens), logits(smaller, tokens))
    assert units_of(again.model) == units_of(smaller)
    assert again.tokenizer("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]
    assert saved_widths(tmp_path / "model") is not None
    from transformers import AutoModelForCausalLM

    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "model")


def test_equally_wide_layers_open_with_plain_transformers_too(family, tokenizer, tokens, tmp_path):
    from transformers import AutoModelForCausalLM

    units = units_of(family, kinds=("neuron",))
    each = Mask(units, np.arange(len(units)) % 3 > 0)
    smaller = prune(family, each)
    save_model(smaller, tmp_path / "model", tokenizer=tokenizer)
    assert saved_widths(tmp_path / "model") is None
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert sum(p.numel() for p in stock.parameters()) < sum(p.numel() for p in family.original_model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(stock(tokens).logits, logits(smaller, tokens), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(open_model(tmp_path / "model").model, tokens), logits(smaller, tokens))


def test_llama_without_one_head_per_key_opens_with_plain_transformers_too(tmp_path, folder):
    from transformers import AutoModelForCausalLM

    opened = open_model(folder)
    units = units_of(opened.model, kinds=("head",))  # two heads per key
    smaller = prune(opened.model, Mask(units, np.arange(len(units)) % 2 > 0))
    save_model(smaller, tmp_path / "model", tokenizer=opened.tokenizer)
    assert saved_widths(tmp_path / "model") is None
    inputs = torch.arange(20)[None]
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(inputs).logits
    torch.testing.assert_close(found, logits(smaller, inputs), atol=1e-5, rtol=1e-5)


def test_a_trained_model_is_saved_as_it_is_now(family, tokenizer, tokens, tmp_path):
    from transformers import AutoModelForCausalLM

    trained = copied(family)
    with torch.no_grad():
        for block in trained.blocks:
            for name in ("q", "v"):
                getattr(block.attn, name).weight.mul_(1.5)
                if getattr(block.attn, name).bias is not None:
                    getattr(block.attn, name).bias.add_(0.1)
    wanted = logits(trained, tokens)
    assert (wanted - logits(family, tokens)).abs().max() > 1e-3
    before = digest(trained)
    save_model(trained, tmp_path / "model", tokenizer=tokenizer)
    assert digest(trained) == before
    with torch.no_grad():
        found = AutoModelForCausalLM.from_pretrained(tmp_path / "model")(tokens).logits
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(open_model(tmp_path / "model").model, tokens), wanted)


def test_tied_weights_are_saved_once(saved, tmp_path):
    opened = open_model(saved)
    units = units_of(opened.model, kinds=("neuron",))
    smaller = prune(opened.model, Mask(units, ~sample(units, 30, seed=0)))
    save_model(smaller, tmp_path / "model", tokenizer=opened.tokenizer)
    size = sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors"))
    assert size < sum(file.stat().st_size for file in saved.glob("*.safetensors"))
    again = open_model(tmp_path / "model").model
    assert again.embed.weight.data_ptr() == again.unembed.weight.data_ptr()
    inputs = torch.arange(20)[None]
    assert torch.equal(logits(again, inputs), logits(smaller, inputs))
    assert open_model(tmp_path / "model", dtype=torch.bfloat16).model.embed.weight.dtype == torch.bfloat16


def test_an_mlp_is_saved_too(tmp_path):
    model = MLP(4, 2, (3, 5), 3)
    save_model(model, tmp_path / "model")
    assert digest(open_model(tmp_path / "model").model) == digest(model)


def test_what_cannot_be_saved_says_what_to_do(llama, native_plain_ln, tokenizer, tmp_path):
    with pytest.raises(FileExistsError, match="save to another folder"):
        save_model(llama, tmp_path, tokenizer=tokenizer)
    with pytest.raises(ValueError, match="that open_model opened, or an MLP"):
        save_model(native_plain_ln, tmp_path / "model", tokenizer=tokenizer)
    with pytest.raises(ValueError, match="pass the tokenizer"):
        save_model(llama, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_a_damaged_folder_is_refused(saved, tmp_path):
    opened = open_model(saved)
    units = units_of(opened.model)
    smaller = prune(opened.model, Mask(units, ~sample(units, 30, seed=0)))
    folder = tmp_path / "model"
    save_model(smaller, folder, tokenizer=opened.tokenizer)
    config, weights = (folder / "config.json").read_text(), (folder / "model.safetensors").read_bytes()

    def damaged(content, cut=weights):
        (folder / "config.json").write_text(content)
        (folder / "model.safetensors").write_bytes(cut)
        with pytest.raises(ValueError, match="save or copy the model again"):
            open_model(folder)

    changed = json.loads(config)
    changed["skilloc"]["widths"]["blocks.0.mlp.hook_post"] = [7, 0]
    damaged(json.dumps(changed))
    del changed["skilloc"]["widths"]
    damaged(json.dumps(changed))
    damaged(config, weights[:-100])
    (folder / "config.json").write_text(config)
    (folder / "model.safetensors").write_bytes(weights)
    open_model(folder)
