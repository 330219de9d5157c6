"""Residual dimensions: held, kept at zero through training, and cut out, they are one."""

import numpy as np
import pytest
import torch

from skilloc.ablation import ablation_effects
from skilloc.experiment import Experiment, hold, zero_reference
from skilloc.masks import Mask
from skilloc.models.copying import copied
from skilloc.models.makers import units_of
from skilloc.pruning import effects_again, keep, mask_curve, masks_of, prune, recover, remaining
from skilloc.pruning.scored import scored
from skilloc.tasks import Examples
from skilloc.training import TrainConfig, train
from skilloc.units import RESIDUAL

_SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 4}


def bridge(kind, **settings):
    """A small model whose norms have gains of 1 + weight, with loud weights."""
    import transformers
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=61, num_key_value_heads=2, max_position_embeddings=64, **{**_SIZES, **settings}
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return build_bridge_from_module(model, type(model).__name__, hf_config=config).eval()


@pytest.fixture(scope="module", params=["llama", "gpt2", "Gemma2", "Nemotron"])
def model(request):
    """RMSNorm; LayerNorm with tied embeddings; RMSNorm and LayerNorm with gains of 1 + weight."""
    if request.param in ("llama", "gpt2"):
        return request.getfixturevalue(request.param)
    return bridge(request.param)


@pytest.fixture(scope="module")
def batch(tokens):
    return Examples(tokens[:, :-1], tokens[:, 1:].clone())


def mask_of(model, share=0.6):
    units = units_of(model, kinds=(RESIDUAL,))
    return Mask(units, np.random.default_rng(0).random(len(units)) < share)


def logits_of(model, inputs):
    with torch.no_grad():
        found = model(inputs)
    return found if isinstance(found, torch.Tensor) else found.logits


def test_held_kept_at_zero_and_cut_are_one(model, tokens):
    mask = mask_of(model)
    with hold(model, mask, zero_reference(mask.units)):
        held = logits_of(model, tokens)
    own = copied(model)
    keep(own, mask)
    torch.testing.assert_close(logits_of(own, tokens), held, atol=1e-5, rtol=1e-5)
    smaller = prune(model, mask)
    torch.testing.assert_close(logits_of(smaller, tokens), held, atol=1e-5, rtol=1e-5)
    assert len(units_of(smaller, kinds=(RESIDUAL,))) == remaining(model, mask).sum() == mask.keep.sum()
    assert (logits_of(model, tokens) - held).abs().max() > 0.1


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_a_mask_survives_training(model, tokens, batch, optimiser):
    own, mask = copied(model).requires_grad_(True), mask_of(model)
    config = TrainConfig(8, rate=1e-3, optimiser=optimiser, weight_decay=0.1, evaluate_every=8)
    train(own, lambda _: batch, config, evaluate={"text": batch}, rules=[keep(own, mask)], progress=False)
    trained = logits_of(own, tokens)
    with hold(own, mask, zero_reference(mask.units)):
        torch.testing.assert_close(logits_of(own, tokens), trained, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(logits_of(prune(own, mask), tokens), trained, atol=2e-5, rtol=1e-5)
    untrained = copied(model)
    keep(untrained, mask)
    assert (logits_of(untrained, tokens) - trained).abs().max() > 1e-3


def test_dimensions_are_scored_again_and_retrained(model, batch):
    experiment = Experiment(model, {"text": batch}, kinds=(RESIDUAL,), folds=2)
    count, score = len(experiment.units), effects_again(experiment, ablation_effects)
    mask = mask_of(model)
    found = score(mask)
    for unit in np.flatnonzero(mask.keep)[::7]:
        without = Mask(mask.units, mask.keep & (np.arange(count) != unit))
        wanted = scored(experiment, without)[0] - scored(experiment, mask)[0]
        assert found[unit] == pytest.approx(wanted.mean(), abs=2e-5)
    curve = mask_curve(experiment, masks_of(experiment.units, score, [count, count - 2]), draws=1)
    np.testing.assert_allclose(mask_curve(experiment, curve.masks, draws=0).losses, curve.losses)
    after = recover(experiment, curve.masks[1:], lambda _: batch, TrainConfig(5, rate=1e-3))
    np.testing.assert_allclose(after.losses[0, 0], curve.losses[1], atol=1e-5)
    assert after.losses[0, -1].mean() < after.losses[0, 0].mean()


def test_all_dimensions_but_one_zero(model, tokens):
    units = units_of(model, kinds=(RESIDUAL,))
    mask = Mask(units, np.zeros(len(units), dtype=bool))
    with hold(model, mask, zero_reference(units)):
        held = logits_of(model, tokens)
    torch.testing.assert_close(logits_of(prune(model, mask), tokens), held, atol=1e-5, rtol=1e-5)


def test_means_of_dimensions_and_mixtures_are_refused(model, batch):
    mask = mask_of(model)
    with pytest.raises(ValueError, match="no bias that could take up"):
        prune(model, mask, reference=np.full(len(mask.keep), 0.5))
    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    mixture = bridge("Mixtral", **experts)
    for kind in (RESIDUAL, "expert"):
        units = units_of(mixture, kinds=(kind,))
        some = Mask(units, np.arange(len(units)) > 1)
        with pytest.raises(ValueError, match="hold the mask instead"):
            prune(mixture, some)
        experiment = Experiment(mixture, {"text": batch}, kinds=(kind,), folds=2)
        assert np.isfinite(mask_curve(experiment, [some], draws=0).losses).all()
