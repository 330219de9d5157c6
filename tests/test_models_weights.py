import pytest
import torch

from skilloc.models.makers import group, output_weight, units_of, zeroed


def held_at_zero(model, hook, positions, tokens):
    def zero(activation, hook):
        activation = activation.clone()
        activation[:, :, positions] = 0
        return activation

    with torch.no_grad():
        return model.run_with_hooks(tokens, fwd_hooks=[(hook, zero)])


def zero_in_place(views, positions):
    for view in views:
        view[positions] = 0


def some_of(width):
    return [0, 1, width - 1]


def test_surgery_equals_the_activation_held_at_zero(any_model, tokens):
    with torch.no_grad():
        base = any_model(tokens)
    units = units_of(any_model)
    for hook, width in zip(units.hooks, units.widths, strict=True):
        for index in some_of(width):
            held = held_at_zero(any_model, hook, [index], tokens)
            with zeroed(any_model, hook, index), torch.no_grad():
                operated = any_model(tokens)
            torch.testing.assert_close(operated, held, atol=1e-5, rtol=0)
            assert (operated - base).abs().max() > 1e-3  # else the comparison says nothing
    with torch.no_grad():
        assert torch.equal(any_model(tokens), base)


def test_surgery_on_several_units_equals_holding_them_jointly(any_model, tokens):
    for hook in units_of(any_model).hooks[-2:]:
        with zeroed(any_model, hook, [0, 2, 3]), torch.no_grad():
            operated = any_model(tokens)
        torch.testing.assert_close(operated, held_at_zero(any_model, hook, [0, 2, 3], tokens), atol=1e-5, rtol=0)


def test_what_a_unit_reads_and_what_it_writes_silence_it_each_alone(any_model, tokens):
    # A coupled group: the neuron is silent without the rows that it reads through as without the column that it writes
    # through; a head without its values as without its output slice. Shared values are no part of the group.
    for bank in units_of(any_model).banks:
        hook = bank.name
        held, (write, *rest) = held_at_zero(any_model, hook, [1], tokens), group(any_model, hook).items()
        read = [view for name, view in rest if bank.kind == "neuron" or name.startswith("v.")]
        for views in ([write[1]], read):
            saved = [view.detach().clone() for view in views]
            with torch.no_grad():
                zero_in_place(views, [1])
                operated = any_model(tokens)
                for view, values in zip(views, saved, strict=True):
                    view.copy_(values)
            if views:
                torch.testing.assert_close(operated, held, atol=1e-5, rtol=0)


def test_every_bit_comes_back(any_model):
    before = {name: parameter.detach().clone() for name, parameter in any_model.named_parameters()}
    for hook in units_of(any_model).hooks:
        with pytest.raises(KeyboardInterrupt), zeroed(any_model, hook, 2):
            interrupt()
    for name, parameter in any_model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def interrupt():
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("family", "neuron", "head"),
    [
        ("llama", {"out.weight", "gate.weight", "in.weight"}, {"o.weight", "q.weight"}),
        (
            "gpt2",
            {"out.weight", "in.weight", "in.bias"},
            {"o.weight"} | {f"{p}.{w}" for p in "qkv" for w in ("weight", "bias")},
        ),
        ("native_gated_rms", {"out.weight", "gate.weight", "in.weight"}, {"o.weight", "q.weight", "q.bias"}),
    ],
)
def test_the_parts_of_a_group(family, neuron, head, request):
    # Four heads on two keys and values share these, so only GPT-2's heads own theirs.
    model = request.getfixturevalue(family)
    assert set(group(model, "blocks.1.mlp.hook_post")) == neuron
    assert set(group(model, "blocks.1.attn.hook_z")) == head


def test_groups_are_views_that_share_no_weight_between_units(any_model):
    for hook, width in zip(units_of(any_model).hooks, units_of(any_model).widths, strict=True):
        for name, view in group(any_model, hook).items():
            assert view.shape[0] == width
            storage = torch.arange(view.untyped_storage().nbytes() // view.element_size())
            places = torch.as_strided(storage, view.shape, view.stride(), view.storage_offset())
            assert len(places.unique()) == view.numel(), name


def test_norms_of_all_units_at_once_carry_gradients(llama):
    hook = "blocks.0.mlp.hook_post"
    norms = torch.stack([view.flatten(1).square().sum(1) for view in group(llama, hook).values()]).sum(0).sqrt()
    mlp = llama.blocks[0].mlp.original_component
    gate, up, down = (getattr(mlp, f"{name}_proj").weight for name in ("gate", "up", "down"))
    by_hand = (gate[5].square().sum() + up[5].square().sum() + down[:, 5].square().sum()).sqrt()
    torch.testing.assert_close(norms[5], by_hand)
    gradient = torch.autograd.grad(norms.sum(), down)[0]
    torch.testing.assert_close(gradient[:, 5], (down[:, 5] / by_hand).detach())


def test_output_weight_maps_activations_to_what_is_written(any_model, tokens):
    units = units_of(any_model)
    _, cache = any_model.run_with_cache(tokens)
    for hook in units.hooks:
        out = "attn.o" if units.bank(hook).kind == "head" else "mlp.out"
        part = hook.rpartition(".")[0].replace("mlp", out).replace("attn", out) + ".hook_out"
        weight = output_weight(any_model, hook)
        written = cache[hook].flatten(2) @ weight
        bias = cache[part] - written  # constant over examples and positions when the rows are right
        torch.testing.assert_close(bias, bias[:1, :1].expand_as(bias), atol=1e-5, rtol=0)
        assert weight.data_ptr() in {parameter.data_ptr() for parameter in any_model.parameters()}


def test_units_lie_in_forward_order_with_widths_from_the_weights(llama, native_plain_ln):
    units = units_of(llama)
    assert units.hooks[:3] == ("blocks.0.attn.hook_z", "blocks.0.mlp.hook_post", "blocks.1.attn.hook_z")
    assert units.widths == (4, 48) * 3
    assert units_of(llama, kinds=("neuron",)).widths == (48,) * 3
    stale = llama.cfg.d_mlp
    llama.cfg.d_mlp = 7
    try:
        assert units_of(llama).widths == (4, 48) * 3
    finally:
        llama.cfg.d_mlp = stale
    assert units_of(native_plain_ln).widths == (4, 40) * 2


def native(**settings):
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge

    shape = {"n_layers": 1, "d_model": 8, "n_heads": 2, "d_head": 4, "n_ctx": 8, "d_vocab": 11, "d_mlp": 12, "seed": 0}
    return TransformerBridge.boot_native(TransformerBridgeConfig(**{**shape, "act_fn": "gelu", **settings}))


def test_a_layer_without_an_mlp_has_no_neurons():
    attention_only = native(attn_only=True)
    assert units_of(attention_only).hooks == ("blocks.0.attn.hook_z",)
    with pytest.raises(ValueError, match=r"name one of these"):
        units_of(attention_only, kinds=("neuron",))
    with pytest.raises(ValueError, match=r'did you mean "head"\?'):
        units_of(attention_only, kinds=("heads",))


def test_neurons_coupled_by_solu_have_no_weights_of_their_own():
    solu = native(act_fn="solu")
    assert units_of(solu).widths == (2, 12)
    with pytest.raises(ValueError, match="ablate at the hook instead"):
        group(solu, "blocks.0.mlp.hook_post")


def test_a_mixture_of_experts_is_refused_by_name():
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = build_bridge_from_module(MixtralForCausalLM(config), "MixtralForCausalLM", hf_config=config)
    with pytest.raises(ValueError, match=r"MixtralForCausalLM.*name one of these"):
        units_of(model, kinds=("neuron",))
    assert units_of(model, kinds=("head",)).widths == (2,)
    assert units_of(model).kinds == ("head", "head")


def test_queries_normalised_over_all_heads_are_left_alone(tokens):
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import Olmo2Config, Olmo2ForCausalLM

    config = Olmo2Config(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        initializer_range=0.3,
    )
    config._attn_implementation = "eager"
    model = build_bridge_from_module(Olmo2ForCausalLM(config).eval(), "Olmo2ForCausalLM", hf_config=config)
    hook = "blocks.0.attn.hook_z"
    assert set(group(model, hook)) == {"o.weight", "v.weight"}
    with zeroed(model, hook, 1), torch.no_grad():
        operated = model(tokens)
    torch.testing.assert_close(operated, held_at_zero(model, hook, [1], tokens), atol=1e-5, rtol=0)


def test_unknown_places_are_refused_with_the_cure(llama):
    with pytest.raises(ValueError, match="of kind head or neuron"):
        units_of(llama, kinds=("synapse",))
    with pytest.raises(ValueError, match="units_of"):
        output_weight(llama, "blocks.9.mlp.hook_post")
    with pytest.raises(ValueError, match="has 4 units; count from 0"), zeroed(llama, "blocks.0.attn.hook_z", 4):
        pass
    with pytest.raises(TypeError, match=r"name the units of any other module with describe"):
        units_of(torch.nn.Linear(2, 2))
