"""Experts of mixtures as units: held at zero they are as if their weights were zero, and the router keeps its row."""

from typing import Any

import numpy as np
import pytest
import torch

from skilloc.ablation import ablation_effects
from skilloc.attribution import attribution_effects
from skilloc.experiment import Experiment
from skilloc.models.language import digest
from skilloc.models.makers import units_of, zeroed
from skilloc.tasks import Examples

SIZES = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 32,
    "num_experts_per_tok": 2,
}


@pytest.fixture(scope="module", params=["mixtral", "olmoe"])
def mixture(request: pytest.FixtureRequest) -> Any:
    """A tiny mixture of four experts with loud weights, wrapped by transformer-lens."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import MixtralConfig, MixtralForCausalLM, OlmoeConfig, OlmoeForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if request.param == "mixtral":
            model: Any = MixtralForCausalLM(MixtralConfig(num_local_experts=4, **SIZES))
        else:
            model = OlmoeForCausalLM(OlmoeConfig(num_experts=4, **SIZES))
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
    model.set_attn_implementation("eager")
    return build_bridge_from_module(model, type(model).__name__, hf_config=model.config).eval()


@pytest.fixture
def examples() -> dict[str, Examples]:
    """Six short sequences."""
    tokens = torch.randint(61, (6, 8), generator=torch.Generator().manual_seed(0))
    return {"text": Examples(tokens, tokens.roll(-1, 1))}


def test_experts_share_the_axis_of_heads(mixture: Any) -> None:
    units = units_of(mixture, kinds=("head", "expert"))
    assert units.names[:6] == ("L0H0", "L0H1", "L0E0", "L0E1", "L0E2", "L0E3")
    assert set(units.kinds) == {"head", "expert"}


def test_an_expert_at_zero_is_one_whose_weights_are_zero(mixture: Any, examples: dict[str, Examples]) -> None:
    before = digest(mixture)
    experiment = Experiment(mixture, examples, kinds=("expert",), folds=1)
    effects, base = ablation_effects(experiment), experiment.losses().mean()
    for unit in range(len(experiment.units)):
        hook, place = experiment.units.locate(unit)
        with zeroed(mixture, hook, place):
            without = Experiment(mixture, examples, kinds=("expert",), folds=1).losses().mean()
        assert effects.values[0, 0, unit] == pytest.approx(without - base, abs=1e-6)
    assert digest(mixture) == before
    assert np.abs(effects.values).max() > 1e-3


def test_an_expert_that_is_never_chosen_has_no_effect(mixture: Any, examples: dict[str, Examples]) -> None:
    chosen: list[torch.Tensor] = []
    experts = mixture.blocks[0].mlp.original_component.experts
    handle = experts.register_forward_hook(lambda _, args, output: chosen.append(args[1]))
    text = examples["text"]
    one = {"text": Examples(text.inputs[:1, :1], text.targets[:1, :1])}
    mixture(one["text"].tokens)
    handle.remove()
    experiment = Experiment(mixture, one, kinds=("expert",), folds=1)
    effects = ablation_effects(experiment).values[0, 0]
    silent = [e for e in range(4) if not bool((chosen[0] == e).any())]
    assert len(silent) == 2
    assert all(effects[e] == 0 for e in silent)
    assert all(effects[e] != 0 for e in set(range(4)) - set(silent))


def test_what_experts_add_is_the_layer(mixture: Any, examples: dict[str, Examples]) -> None:
    """All experts of a layer at their reference are the layer at its reference."""
    from skilloc.ablation import mask_effects
    from skilloc.masks import Mask

    experts = Experiment(mixture, examples, kinds=("expert",), folds=2)
    layers = Experiment(mixture, examples, kinds=("layer",), folds=2)
    for layer in (0, 1):
        (by_experts,), _ = mask_effects(experts, [Mask(experts.units, experts.units.layers != layer)])
        (by_layer,), _ = mask_effects(layers, [Mask(layers.units, ~layers.units.named([f"L{layer}M"]))])
        assert by_experts == pytest.approx(by_layer, abs=1e-6)


def test_attribution_is_the_derivative_of_fading_an_expert(mixture: Any, examples: dict[str, Examples]) -> None:
    from skilloc.experiment import losses
    from skilloc.models.makers import face_of

    experiment = Experiment(mixture, examples, kinds=("expert",), folds=1)
    estimate = attribution_effects(experiment, curvature=0).values[0, 0]
    hook, step = experiment.units.hooks[1], 1e-3

    def faded(by: float) -> Any:
        def edit(value: torch.Tensor) -> torch.Tensor:
            changed = value.clone()
            changed[..., 2, :] *= 1 - by
            return changed

        with face_of(mixture).attached({hook: edit}):
            return losses(mixture, examples["text"]).mean()

    unit = experiment.units.span(hook).start + 2
    assert estimate[unit] == pytest.approx(float(faded(step) - faded(-step)) / (2 * step), abs=2e-4)
