import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from skilloc.models.language import digest, open_model
from skilloc.models.makers import group, output_weight, units_of, zeroed
from skilloc.models.mlp import MLP, open_mlp, save_mlp


def test_initial_values_are_those_of_torch():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        wanted = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    model = MLP(7, 3, 6, 3, seed=5)
    for mine, theirs in zip(model.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x), wanted(x))


def test_seeds_and_the_global_generator():
    before = torch.get_rng_state()
    assert digest(MLP(4, 2, 5, 2, seed=1)) == digest(MLP(4, 2, 5, 2, seed=1)) != digest(MLP(4, 2, 5, 2, seed=2))
    assert torch.equal(before, torch.get_rng_state())


def test_a_hand_network():
    # h = relu(x0 - x1, x0 + x1 - 1);  logits = (2 h0 - h1 + 1, h1)
    model = MLP(2, 2, 2, 2)
    with torch.no_grad():
        model.layers[0].weight.copy_(torch.tensor([[1.0, -1], [1, 1]]))
        model.layers[0].bias.copy_(torch.tensor([0.0, -1]))
        model.out.weight.copy_(torch.tensor([[2.0, -1], [0, 1]]))
        model.out.bias.copy_(torch.tensor([1.0, 0]))
    x = torch.tensor([[3.0, 1], [1, 3]])
    assert model(x).tolist() == [[2.0, 3.0], [-2.0, 3.0]]
    logits, cache = model.run_with_cache(x)
    assert cache["layers.0.hook_post"].tolist() == [[2.0, 3.0], [0.0, 3.0]]
    assert output_weight(model, "layers.0.hook_post").tolist() == [[2.0, 0.0], [-1.0, 1.0]]
    with zeroed(model, "layers.0.hook_post", 1):
        assert model(x).tolist() == [[5.0, 0.0], [1.0, 0.0]]
    assert torch.equal(model(x), logits)


def test_units_and_groups():
    model = MLP(5, 2, [4, 3], 3)
    units = units_of(model)
    assert units.hooks == ("layers.0.hook_post", "layers.1.hook_post")
    assert units.widths == (4, 3)
    assert units.names[4] == "L1N0"
    parts = group(model, "layers.1.hook_post")
    norms = np.sqrt(sum(part[2].square().sum().item() for part in parts.values()))
    wanted = [model.layers[1].weight[2], model.layers[1].bias[2, None], model.out.weight[:, 2]]
    assert norms == pytest.approx(torch.cat(wanted).norm().item())
    with torch.no_grad():
        parts["out.weight"][2] = 0
    assert not model.out.weight[:, 2].any()


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "tanh"])
def test_activations(activation):
    model = MLP(3, 2, 4, 2, activation=activation)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    hidden = getattr(functional, activation)(x @ model.layers[0].weight.T + model.layers[0].bias)
    torch.testing.assert_close(model(x), hidden @ model.out.weight.T + model.out.bias)
    with zeroed(model, "layers.0.hook_post", range(4)):
        assert torch.equal(model(x), model.out.bias.expand(6, 2))


def test_saved_and_opened(tmp_path):
    model = MLP(5, 2, [4, 3], 3, activation="gelu", seed=9)
    save_mlp(model, tmp_path / "mlp")
    opened = open_model(tmp_path / "mlp")
    assert digest(opened.model) == digest(model) == digest(open_mlp(tmp_path / "mlp"))
    assert opened.model.cfg == model.cfg
    assert opened.tokenizer is None
    assert not opened.model.training
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mlp"]
    with pytest.raises(FileExistsError, match="another folder"):
        save_mlp(model, tmp_path / "mlp")


def test_damaged_folders(tmp_path):
    save_mlp(MLP(5, 2, 4, 2), tmp_path / "mlp")

    def copied(name):
        return shutil.copytree(tmp_path / "mlp", tmp_path / name)

    cut = copied("cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:50])
    (copied("gone") / "model.safetensors").unlink()
    other = copied("other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "d_in": 6}))
    for name in ("cut", "gone", "other"):
        with pytest.raises(ValueError, match="save the model again"):
            open_mlp(tmp_path / name)
    (other / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="open it with open_model"):
        open_mlp(other)
    with pytest.raises(FileNotFoundError, match="save_mlp"):
        open_mlp(tmp_path / "nowhere")


def test_networks_that_cannot_be():
    with pytest.raises(ValueError, match="at least 2 linear layers"):
        MLP(3, 2, 4, 1)
    with pytest.raises(ValueError, match="one width per hidden layer"):
        MLP(3, 2, [4, 4], 2)
    with pytest.raises(ValueError, match="`width` is 0; use a whole number"):
        MLP(3, 2, 0, 2)
    with pytest.raises(ValueError, match="use one of relu"):
        MLP(3, 2, 4, 2, activation="sine")
    model = MLP(3, 2, 4, 2)
    with pytest.raises(ValueError, match="which has units of kind neuron; name one of these"):
        units_of(model, kinds=("head",))
    with pytest.raises(ValueError, match="units_of"):
        output_weight(model, "blocks.0.mlp.hook_post")
    with pytest.raises(ValueError, match="count from 0"), zeroed(model, "layers.0.hook_post", 4):
        pass
