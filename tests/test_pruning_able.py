import pytest
import torch
from decoders import made

from skilloc.models.language import digest
from skilloc.models.makers import units_of
from skilloc.models.mlp import MLP
from skilloc.models.wrapping import wrapped
from skilloc.pruning import can, prune
from skilloc.pruning.able import _trial


@pytest.mark.parametrize(
    ("family", "refused"),
    [
        ("llama", {"layer"}),
        ("bloom", {"head", "layer"}),
        ("olmo2", {"head", "layer"}),
        ("stablelm", {"layer"}),
        ("mixtral", {"expert", "residual", "layer"}),
        ("falcon, new", {"layer"}),
    ],
)
def test_what_can_be_done_is_what_is_done(family, refused):
    model = wrapped(made(family, 61), family)
    before = digest(model)
    found = can(model)
    assert digest(model) == before
    assert found.save == ""
    found.check()
    assert {kind for kind, reason in found.cut.items() if reason} == refused
    assert {kind for kind, reason in found.save_cut.items() if reason} == refused
    for kind, reason in found.cut.items():
        units = units_of(model, kinds=(kind,))
        if reason:
            assert "\n" not in reason
            with pytest.raises(ValueError, match=r"cannot be cut out|hold the mask"):
                prune(model, _trial(model, units))
            with pytest.raises(ValueError, match=r"cannot be cut out|hold the mask"):
                found.check([kind])
        else:
            prune(model, _trial(model, units))
            found.check([kind])


def test_what_cannot_be_saved_is_known_before_and_after_a_cut(native_plain_ln):
    found = can(native_plain_ln, kinds=("neuron", "head"))
    assert found.cut == {"neuron": "", "head": ""}
    assert "which transformers cannot save" in found.save
    assert all("which transformers cannot save" in reason for reason in found.save_cut.values())
    with pytest.raises(ValueError, match="save a model that open_model opened"):
        found.check(["neuron"])
    with pytest.raises(ValueError, match="save a model that open_model opened"):
        found.check()


def test_a_model_that_would_open_as_another_is_not_saved():
    model = wrapped(made("gpt2", 61), "gpt2")
    attention = model.blocks[0].attn.original_component
    model.original_model.config.scale_attn_weights = not attention.scale_attn_weights  # no longer what it computes
    with pytest.raises(ValueError, match="would compute something else when it is opened again"):
        can(model, kinds=()).check()


def test_an_mlp_can_do_all():
    found = can(MLP(4, 3, (5, 6), 3))
    assert (found.save, found.cut, found.save_cut) == ("", {"neuron": ""}, {"neuron": ""})


def test_a_described_module_has_no_file(tmp_path):
    from skilloc import At, describe

    inner = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    weights = {"0.weight": 0, "0.bias": 0, "2.weight": 1}
    model = describe(inner.eval(), units={"hidden": At("1", weights=weights)}, example=torch.randn(5, 3))
    found = can(model)
    assert set(found.cut.values()) == {""}
    with pytest.raises(ValueError, match="save its state_dict"):
        found.check()
