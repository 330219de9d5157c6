import pytest
import torch

from skilloc.models import language
from skilloc.models.language import context_length, digest, encoder, open_model, separator


def test_a_folder_opens_as_transformers_computes_it_and_in_silence(saved, capfd, texts):
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_warning()
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    opened = open_model(saved)
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    plain = AutoModelForCausalLM.from_pretrained(saved, attn_implementation="eager")
    ids = torch.tensor(encoder(opened.tokenizer)(texts[:1]))
    with torch.no_grad():
        torch.testing.assert_close(opened.model(ids), plain(ids).logits, atol=1e-6, rtol=0)
    assert not opened.model.training
    assert opened.name == str(saved)
    assert context_length(opened.model) == 48


def test_the_bridge_reads_text_too_and_the_tokenizer_stays_as_it_was_saved(saved, tokenizer, texts):
    opened = open_model(saved)
    assert opened.model.to_string(opened.model.to_tokens(texts[1], prepend_bos=False)[0]) == texts[1]
    assert opened.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert opened.tokenizer.pad_token is None  # the bridge's own copy has one


def test_the_type_of_the_weights_is_what_was_asked_for(saved):
    model = open_model(saved, dtype=torch.bfloat16).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_the_digest_names_the_weights(saved, folder):
    model = open_model(saved).model
    first = digest(model)
    assert len(first) == 16
    assert digest(open_model(folder).model) == first  # wherever it lies
    assert digest(open_model(saved, dtype=torch.float64).model) != first
    weight = model.blocks[1].mlp.out.weight
    with torch.no_grad():
        weight[2, 3] = torch.nextafter(weight[2, 3], torch.tensor(9.0))
    assert digest(model) != first


def test_the_digest_tells_swapped_layers_apart():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    assert digest(model) != digest(torch.nn.Sequential(model[1], model[0]))


def test_encoding_is_exact_and_takes_special_tokens_in_a_text_for_characters(tokenizer, texts):
    encode = encoder(tokenizer)
    assert [tokenizer.decode(ids) for ids in encode(texts)] == texts
    assert encode([]) == []
    assert encode([""]) == [[]]
    written = encode(["a<|endoftext|>b"])[0]
    assert tokenizer.eos_token_id not in written
    assert tokenizer.decode(written) == "a<|endoftext|>b"
    assert tokenizer("<|endoftext|>")["input_ids"] == [tokenizer.eos_token_id]  # the given tokenizer is left alone


def test_encoding_ignores_limits_padding_and_added_tokens(tokenizer, capfd, texts, new_tokenizer):
    from tokenizers.processors import TemplateProcessing

    limited = new_tokenizer()
    limited.model_max_length = 4
    limited.backend_tokenizer.enable_truncation(3)
    limited.backend_tokenizer.enable_padding(length=40)
    limited.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", tokenizer.eos_token_id)]
    )
    assert encoder(limited)(texts) == encoder(tokenizer)(texts)
    assert capfd.readouterr().err == ""


def test_the_separator_is_what_stood_between_documents_in_training(tokenizer, new_tokenizer):
    from tokenizers.processors import TemplateProcessing

    assert separator(tokenizer) == tokenizer.convert_tokens_to_ids("<|endoftext|>")
    chat = new_tokenizer()
    chat.add_special_tokens({"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"})
    assert separator(chat) == tokenizer.eos_token_id  # pretrained with <|endoftext|>, chat with <|im_end|>
    chat.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", chat.bos_token_id)]
    )
    assert separator(chat) == chat.bos_token_id  # put first, so in training too


@pytest.mark.skipif(not language.EMBEDDED.is_dir(), reason="no embedded model: python analyses/train_embedded.py")
def test_the_embedded_model_opens(texts):
    opened = open_model("embedded")
    ids = encoder(opened.tokenizer)(texts[:3])
    assert max(map(max, ids)) < opened.model.cfg.d_vocab
    with torch.no_grad():
        assert bool(opened.model(torch.tensor(ids[:1])).isfinite().all())


@pytest.mark.parametrize(
    ("name", "cure"),
    [("smolm2", "did you mean smollm2"), ("/no/such/folder", "a hub name such as"), ("no.gguf", "check the path")],
)
def test_a_wrong_name(name, cure):
    with pytest.raises(FileNotFoundError, match=cure):
        open_model(name)


def test_a_wrong_device(saved):
    with pytest.raises(ValueError, match='use "cpu"'):
        open_model(saved, device="abacus")


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("causal", [True, False])
def test_a_model_that_sees_what_it_is_asked_for(tmp_path, tokenizer, causal, seed):
    from transformers import BertConfig, BertLMHeadModel

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=len(tokenizer), is_decoder=causal, initializer_range=1.0, **shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertLMHeadModel(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    if causal:
        open_model(tmp_path)
    else:
        with pytest.raises(
            ValueError, match=r"BertLMHeadModel whose predictions depend on later tokens; open a decoder"
        ):
            open_model(tmp_path)


def test_an_architecture_that_cannot_be_wrapped(tmp_path, tokenizer):
    from transformers import CTRLConfig, CTRLLMHeadModel

    CTRLLMHeadModel(CTRLConfig(vocab_size=len(tokenizer), n_embd=8, dff=8, n_layer=1, n_head=1)).save_pretrained(
        tmp_path
    )
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match=r"CTRLLMHeadModel, which transformer-lens cannot wrap; open a decoder such as"
    ):
        open_model(tmp_path)
