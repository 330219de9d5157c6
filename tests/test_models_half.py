"""Weights kept in half precision: numbers are those of the same weights in float32, bit by bit."""

import copy

import numpy as np
import pytest
import torch
from decoders import FAMILIES, made
from transformers import AutoModelForCausalLM

import skilloc as sk
from skilloc.cli import main
from skilloc.models.half import Half, compute_whole, half_of, plain
from skilloc.models.language import EMBEDDED, digest, open_model
from skilloc.models.makers import face_of, save_model
from skilloc.models.wrapping import wrapped
from skilloc.tasks import Examples

TOKENS = torch.randint(2, 300, (6, 12), generator=torch.Generator().manual_seed(0))
TEXTS = Examples(TOKENS[:, :-1], TOKENS[:, 1:])


def pair(family="llama"):
    """Return a bridge with weights in bfloat16 that computes in float32, and one whose weights are these in float32."""
    half, whole = (
        wrapped(made(family, 300).to(torch.bfloat16).to(kind), family) for kind in (torch.bfloat16, torch.float32)
    )
    compute_whole(half)
    return half, whole


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_every_family_computes_as_in_float32(family):
    half, whole = pair(family)
    found, wanted = (face_of(model).run(TOKENS) for model in (half, whole))
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    assert half_of(half) == torch.bfloat16
    assert half_of(whole) is None
    assert digest(half) == digest(whole)
    assert all(type(weight) is not Half or plain(weight).dtype == torch.bfloat16 for weight in half.parameters())


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_effects_attribution_and_masks_are_the_same(family):
    half, whole = pair(family)
    found, wanted = (sk.Experiment(model, {"a": TEXTS}, reference="mean", folds=3) for model in (half, whole))
    assert np.array_equal(sk.ablation_effects(found).values, sk.ablation_effects(wanted).values)
    assert np.array_equal(sk.attribution_effects(found).values, sk.attribution_effects(wanted).values)
    masks = [sk.Mask(one.units, np.arange(len(one.units)) % 3 == 0) for one in (found, wanted)]
    for ours, theirs in zip(sk.mask_effects(found, masks[:1]), sk.mask_effects(wanted, masks[1:]), strict=True):
        assert np.array_equal(ours, theirs)


def test_half_of_the_memory_is_kept():
    half, whole = pair()
    sizes = [
        sum(plain(weight).untyped_storage().nbytes() for weight in {id(w): w for w in model.parameters()}.values())
        for model in (half, whole)
    ]
    assert sizes[0] * 2 == sizes[1]


def test_tied_weights_stay_one():
    half, whole = pair("llama")
    assert len(list(half.parameters())) == len(list(whole.parameters()))


def test_what_writes_to_a_weight_is_refused_and_a_copy_can_be_trained():
    half, _ = pair()
    weight = next(half.parameters())
    for write in (lambda: weight.zero_(), lambda: weight.__setitem__(0, 1.0), lambda: setattr(weight, "data", TOKENS)):
        with pytest.raises(ValueError, match="half precision, so that they cannot be changed"):
            write()
    config = sk.TrainConfig(steps=1)
    with pytest.raises(ValueError, match="cannot be trained; open it without `weights`"):
        sk.train(half, lambda _: TEXTS, config, evaluate={}, progress=False)
    copied = face_of(half).copy()
    assert {type(weight) for weight in copied.parameters()} == {torch.nn.Parameter}
    sk.train(copied, lambda _: TEXTS, config, evaluate={}, progress=False)
    assert torch.equal(plain(next(half.parameters())), plain(weight))


@pytest.fixture
def checkpoint(tmp_path):
    """A checkpoint in bfloat16, as most are."""
    mine = AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=torch.bfloat16)
    mine.save_pretrained(tmp_path / "half")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "half" / file).write_bytes((EMBEDDED / file).read_bytes())
    return tmp_path / "half"


def test_a_saved_one_is_the_same_in_float32(checkpoint, tmp_path):
    for name, types in (("half", {"weights": torch.bfloat16}), ("whole", {"dtype": torch.float32})):
        opened = open_model(checkpoint, **types)
        save_model(opened.model, tmp_path / "saved" / name, tokenizer=opened.tokenizer)
    half, whole = (tmp_path / "saved" / name / "model.safetensors" for name in ("half", "whole"))
    assert half.read_bytes() == whole.read_bytes()


def test_opened_by_name_and_in_memory(tmp_path):
    opened = open_model("embedded", weights=torch.bfloat16)
    wanted = open_model("embedded", dtype=torch.bfloat16).model.to(torch.float32)
    with torch.no_grad():
        assert torch.equal(opened.model(TOKENS), wanted(TOKENS))
    assert copy.deepcopy(opened.model.state_dict()) is not None
    mine = made("qwen2", 300).to(torch.bfloat16)
    with torch.no_grad():
        first = open_model(mine, weights=torch.bfloat16).model(TOKENS)
        assert torch.equal(first, made("qwen2", 300).to(torch.bfloat16).to(torch.float32)(TOKENS).logits)
    with pytest.raises(ValueError, match=r"`weights` is torch\.float32; use torch\.bfloat16"):
        open_model("embedded", weights=torch.float32)
    with pytest.raises(ValueError, match="leave it out"):
        open_model("embedded", weights=torch.bfloat16, dtype=torch.float16)


@pytest.mark.slow
def test_a_study_goes_on_in_the_other_precision_of_the_same_weights(checkpoint, tmp_path, capsys):
    line = ["effects", str(checkpoint), "--out", str(tmp_path / "study"), "--units", "head", "--sequences", "8"]
    line += ["--folds", "4", "--length", "16", "--subtask", "python"]
    main(line)
    before = {path: path.read_bytes() for path in (tmp_path / "study").rglob("*") if path.is_file()}
    main([*line, "--weights", "bfloat16"])
    assert {path: path.read_bytes() for path in before} == before
    capsys.readouterr()
    for more, why in (
        (["--weights", "float64"], "unknown `weights`"),
        (["--weights", "float16", "--dtype", "float64"], "give one"),
    ):
        with pytest.raises(SystemExit):
            main([*line, *more])
        assert why in capsys.readouterr().err


@pytest.mark.parametrize(
    "line",
    [
        ("localize", "embedded", "--keep", "python", "--subtask", "python", "english"),
        ("relearn", "embedded", "embedded", "--attack", "python", "--subtask", "python", "english"),
    ],
)
def test_commands_that_train_refuse_them(line, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*line, "--weights", "bfloat16", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert "`weights` is bfloat16, but this command trains, in float32; leave it out" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
