"""Localization: exact zeros, the same strength for every optimiser, the controller, resuming, language models."""

import numpy as np
import pytest
import torch

from skilloc import training
from skilloc.experiment import hold, losses, zero_reference
from skilloc.lasso import LocalizeConfig, group_norms, localize
from skilloc.lasso.proximal import Lasso
from skilloc.masks import Mask
from skilloc.models.language import digest
from skilloc.models.makers import group, units_of
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples, Subtask
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import Checkpoints, TrainConfig, train
from skilloc.training.optimisers import optimiser_of

WORLD = parity_subtasks(8, atoms=2, k=2, composites=[(0, 1)])
KEPT, OTHER = WORLD["composite_01"], WORLD["parity_1"]


@pytest.fixture(scope="module")
def trained():
    """A network that knows its whole world."""
    model = MLP(10, 2, 24, 3)
    evaluate = {name: subtask.draw(300, split="selection") for name, subtask in WORLD.items()}
    train(model, parity_stream(WORLD.values(), 100, seed=0), TrainConfig(steps=800, rate=1e-2), evaluate=evaluate)
    assert all(float(losses(model, subtask.draw(500)).mean()) < 0.01 for subtask in WORLD.values())
    before = digest(model)
    yield model
    assert digest(model) == before, "the input model was changed"


def run(model, *, seed=0, kept=(KEPT,), watched=(OTHER,), checkpoints=None, **settings):
    names = ("steps", "rate", "optimiser", "evaluate_every", "weight_decay", "until")
    chosen = {name: settings.pop(name) for name in names if name in settings}
    config = TrainConfig(**{"steps": 200, "rate": 5e-3, "evaluate_every": 100, **chosen})
    config = LocalizeConfig(**{"training": config, "strength": 3e-3, "examples": 100, "held_out": 300, **settings})
    keywords = {} if checkpoints is None else {"checkpoints": Checkpoints(checkpoints, 40)}
    return localize(model, list(kept), config, seed=seed, watched=watched, **keywords)


def zeros(model):
    """Units of which every weight is exactly zero, looked up in the parameters themselves."""
    first, second, out = model.layers[0], model.layers[1], model.out
    dead = [
        (first.weight == 0).all(1) & (first.bias == 0) & (second.weight == 0).all(0),
        (second.weight == 0).all(1) & (second.bias == 0) & (out.weight == 0).all(0),
    ]
    return [int(layer.sum()) for layer in dead]


@pytest.mark.parametrize(("optimiser", "rate", "decay"), [("sgd", 0.4, 0.0), ("adam", 5e-3, 0.0), ("adamw", 5e-3, 0.1)])
def test_proximal_steps_give_exact_zeros_and_keep_the_skill(trained, optimiser, rate, decay):
    model, history = run(trained, optimiser=optimiser, rate=rate, weight_decay=decay)
    live = [history.of(f"live.layers.{i}.hook_post")[-1] for i in (0, 1)]
    assert [24 - n for n in live] == zeros(model)
    assert 2 <= sum(live) == history.of("live")[-1] <= 42
    assert history.of("revivals")[-1] == 0
    assert history.of(KEPT.name)[-1] < 0.15
    assert history.of(KEPT.name)[-1] == pytest.approx(
        float(losses(model, KEPT.draw(300, split="selection")).mean()), rel=1e-5
    )
    assert not model.training


def test_a_penalty_in_the_loss_gives_none_and_the_threshold_does(trained):
    model, history = run(trained, solver="subgradient", threshold=1e-12)
    assert sum(zeros(model)) == 0
    assert history.of("live")[-1] == 48
    model, history = run(trained, solver="subgradient", threshold=0.1)
    assert sum(zeros(model)) == 48 - history.of("live")[-1] > 5
    held_out = KEPT.draw(300, split="selection")
    assert history.of(KEPT.name)[-1] == pytest.approx(float(losses(model, held_out).mean()), rel=1e-6)
    norms = group_norms(model, units_of(model))
    assert norms[norms > 0].min() > 0.05  # a unit that lives may have lost weights to dead neighbours


def test_adam_needs_the_step_in_its_own_scale(trained, monkeypatch):
    """With rate * strength as the step, Adam undoes in one step what the penalty does in many."""

    def plain(self, hook, optimiser):
        return torch.full((24,), 3e-3 * optimiser.param_groups[0]["lr"])

    monkeypatch.setattr(Lasso, "_step_sizes", plain)
    model, _ = run(trained, steps=300)
    unscaled = sum(zeros(model))
    monkeypatch.undo()
    model, _ = run(trained, steps=300)
    assert sum(zeros(model)) > unscaled + 10


@pytest.mark.parametrize(
    ("optimiser", "rate", "penalty"),
    [("sgd", 2e-3, "lasso"), ("sgd", 2e-3, "hoyer"), ("adam", 5e-3, "lasso"), ("adam", 5e-3, "half")],
)
def test_groups_rest_where_the_gradient_and_the_penalty_are_equal(optimiser, rate, penalty):
    """Minimise |w - a|^2 / 2 + strength * R(w) with noisy gradients: what lives obeys r + strength R'(r) = |a|."""
    torch.manual_seed(0)
    model = MLP(6, 3, 10, 2)  # one hidden layer: no weight lies in two groups
    units, strength = units_of(model), {"lasso": 0.4, "half": 0.4, "hoyer": 0.2}[penalty]
    scale = torch.linspace(0.1, 1.5, 10)
    with torch.no_grad():
        for part in group(model, units.hooks[0]).values():
            part.copy_(torch.randn_like(part) * scale.view(-1, *[1] * (part.ndim - 1)) / 3)
    goal = {p: p.detach().clone() for p in model.parameters()}
    wanted = group_norms(model, units)
    rule = Lasso(model, units, LocalizeConfig(penalty=penalty, strength=strength), [])
    steps = optimiser_of(model.named_parameters(), TrainConfig(steps=1, rate=rate, optimiser=optimiser))
    late = np.zeros(10)
    for step in range(600):
        for parameter, target in goal.items():
            parameter.grad = parameter.detach() - target + 0.5 * torch.randn_like(target)
        steps.step()
        rule.after_step(steps)
        late += group_norms(model, units) / 300 if step >= 300 else 0
    alive = group_norms(model, units) > 0
    assert 5 <= alive.sum() <= 8
    assert rule.revivals == 0
    r, total, squares = late[alive], late.sum(), np.square(late).sum()
    slopes = {"lasso": np.ones_like(r), "half": r**-0.5 / 2, "hoyer": 2 * total / squares * (1 - r * total / squares)}
    np.testing.assert_allclose(r + strength * slopes[penalty], wanted[alive], atol=0.1)
    if penalty == "lasso":
        assert (alive == (wanted > strength)).all()


def test_overlapping_groups_are_shrunk_to_first_order_like_their_sum():
    """Hooks in turn: the error against the gradient of the summed penalty falls with the square of the step."""
    errors = []
    for rate in (1e-2, 5e-3):
        model = MLP(4, 2, 6, 3, seed=3).double()
        units = units_of(model)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        norms = [norm.reshape(-1) for norm in np.split(group_norms(model, units), 2)]
        optimiser = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.0)
        Lasso(model, units, LocalizeConfig(strength=1.0), []).after_step(optimiser)
        weight = before["layers.1.weight"]
        wanted = weight - rate * (weight / torch.from_numpy(norms[0]) + weight / torch.from_numpy(norms[1])[:, None])
        errors.append(float((model.layers[1].weight.detach() - wanted).abs().max()))
    assert 0 < errors[1] < 0.3 * errors[0]


def test_dead_groups_are_forgotten_by_the_optimiser_and_revivals_are_counted(trained):
    import copy

    model = copy.deepcopy(trained)
    units = units_of(model)
    rule = Lasso(model, units, LocalizeConfig(strength=0.05), [])
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    sample = parity_stream([KEPT], 50, seed=0)
    dead = np.array([], dtype=int)
    for step in range(600):  # as many as it takes: how fast units die depends on rounding
        found = sample(step)
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(found.inputs), found.targets).backward()
        optimiser.step()
        rule.after_step(optimiser)
        dead = np.flatnonzero(group_norms(model, units)[:24] == 0)
        if len(dead) > 5:
            break
    assert 5 < len(dead) < 24
    (first, *_), hook = dead, model.layers[0]
    assert float(optimiser.state[hook.weight]["exp_avg"][first].abs().max()) == 0
    assert float(optimiser.state[model.layers[1].weight]["exp_avg"][:, first].abs().max()) == 0
    assert float(optimiser.state[hook.weight]["exp_avg"].abs().max()) > 0
    assert rule.revivals == 0
    rule.strength = 1e-12
    with torch.no_grad():
        hook.weight[first] = 5
    rule.after_step(optimiser)
    assert rule.revivals == 1


def test_strength_zero_is_plain_finetuning(trained):
    import copy

    plain = copy.deepcopy(trained)
    evaluate = {s.name: s.draw(300, split="selection", seed=4) for s in (KEPT, OTHER)}
    config = TrainConfig(steps=150, rate=5e-3, evaluate_every=100)
    wanted = train(plain, parity_stream([KEPT], 100, seed=4), config, evaluate=evaluate)
    for solver in ("proximal", "subgradient"):
        model, history = run(trained, strength=0.0, steps=150, seed=4, solver=solver)
        assert digest(model) == digest(plain) != digest(trained)
        for name, column in wanted.columns.items():
            np.testing.assert_array_equal(history.of(name), column)
        assert history.of("live").tolist() == [48, 48, 48]


@pytest.mark.parametrize("solver", ["proximal", "subgradient"])
def test_accumulated_gradients_change_nothing(trained, monkeypatch, solver):
    """The penalty counts once per step, into however many blocks a step's examples are cut."""
    whole, history = run(trained, solver=solver, steps=60, evaluate_every=30)
    monkeypatch.setattr("skilloc.training.step.CACHED", 24 * 30)  # blocks of 30 rows of 100
    cut, again = run(trained, solver=solver, steps=60, evaluate_every=30)
    for a, b in zip(whole.parameters(), cut.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(history.of("penalty"), again.of("penalty"), rtol=1e-4)


def test_the_penalty_column_is_strength_times_penalty(trained):
    model, history = run(trained, steps=100)
    wanted = 3e-3 * group_norms(model, units_of(model)).sum()
    assert history.of("penalty")[-1] == pytest.approx(wanted, rel=1e-5)
    assert history.of("strength").tolist() == [3e-3, 3e-3]


def test_the_strength_is_steered_to_a_number_of_live_units(trained):
    model, history = run(trained, strength=1e-3, wanted_live=24, steps=300, evaluate_every=30)
    assert 48 - sum(zeros(model)) == 24
    assert history.of("strength").max() > 1.5e-3
    assert history.of("strength")[-1] == 0  # and what is left recovers without the penalty
    assert history.of(KEPT.name)[-1] < 0.05
    model, history = run(trained, strength=1e-3, wanted_live=24, steps=300, evaluate_every=30, solver="subgradient")
    assert abs(history.of("live")[-1] - 24) <= 4


@pytest.mark.parametrize("solver", ["proximal", "subgradient"])
def test_the_strength_is_steered_to_a_loss(trained, solver):
    for wanted in (0.02, 0.06):
        _, history = run(trained, strength=1e-3, wanted_loss=wanted, evaluate_every=20, watched=(), solver=solver)
        late = history.of(KEPT.name)[-8:]
        assert np.exp(np.log(late).mean()) == pytest.approx(wanted, rel=0.3)


@pytest.mark.parametrize("solver", ["proximal", "subgradient"])
def test_resuming_gives_the_same_as_one_run(trained, tmp_path, monkeypatch, solver):
    settings = {"solver": solver, "wanted_loss": 0.05, "steps": 120, "evaluate_every": 40, "watched": ()}
    whole, wanted = run(trained, **settings)
    real, done = training.take_step, 0

    def stop(*arguments):
        nonlocal done
        done += 1
        if done > 100:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(trained, checkpoints=tmp_path, **settings)
    assert [path.name for path in tmp_path.iterdir()] == ["step_000000080"]
    model, history = run(trained, checkpoints=tmp_path, **settings)
    assert digest(model) == digest(whole)
    assert history.record() == wanted.record()
    for change in ({"penalty": "half"}, {"strength": 2e-2}, {"seed": 1}):
        with pytest.raises(ValueError, match="a folder of its own"):
            run(trained, checkpoints=tmp_path, **{**settings, **change})


def test_same_seed_same_result_another_seed_another(trained):
    one, again, other = (run(trained, steps=50, seed=seed) for seed in (0, 0, 1))
    assert digest(one[0]) == digest(again[0]) != digest(other[0])
    assert one[1].record() == again[1].record()


@pytest.mark.parametrize("penalty", ["half", "hoyer", "l1"])
def test_the_other_penalties_sparsify_too(trained, penalty):
    strength = {"half": 1e-2, "hoyer": 1e-2, "l1": 1e-3}[penalty]
    model, history = run(trained, penalty=penalty, strength=strength)
    assert sum(zeros(model)) == 48 - history.of("live")[-1] >= 5
    assert history.of(KEPT.name)[-1] < 0.15


def tokens_subtask():
    def sample(n, split, seed):
        rows = torch.randint(61, (n, 13), generator=torch.Generator().manual_seed(seed))
        return Examples(rows[:, :-1], rows[:, 1:])

    return Subtask("tokens", sample)


@pytest.mark.parametrize("kinds", [("neuron",), ("head", "neuron")])
def test_language_models_of_every_family(any_model, tokens, kinds):
    """Zeros are exact, the input stays as it was, and the copy computes what holding the dead units at zero gives."""
    units = units_of(any_model, kinds=kinds)
    norms = group_norms(any_model, units)
    model, history = run(
        any_model, kept=[tokens_subtask()], watched=(), kinds=kinds, strength=3.0 * float(np.median(norms)) / 10,
        steps=10, evaluate_every=10, rate=0.05, examples=4, held_out=4,
    )  # fmt: skip
    after = group_norms(model, units)
    dead = after == 0
    assert dead.any()
    assert history.of("live")[-1] == (~dead).sum()
    assert (group_norms(any_model, units) == norms).all()
    for hook, gone in units.split(dead).items():
        for part in group(model, hook).values():
            assert bool((part[torch.from_numpy(gone)] == 0).all())
    with torch.no_grad(), hold(model, Mask(units, ~dead), zero_reference(units)):
        held = model(tokens)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), held, atol=1e-5, rtol=1e-5)


def test_dropout_draws_from_the_seed_of_the_call_also_when_resumed(tmp_path, monkeypatch):
    """A GPT-2, whose weights lie transposed in memory, with its usual dropout, under other global seeds each time."""
    from transformer_lens.model_bridge.sources import build_bridge_from_module
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.2)
        model = GPT2LMHeadModel(config)
        model.set_attn_implementation("eager")
        bridge = build_bridge_from_module(model, "GPT2LMHeadModel", hf_config=config).eval()
        settings = {
            "kept": [tokens_subtask()],
            "watched": (),
            "steps": 8,
            "evaluate_every": 4,
            "examples": 4,
            "held_out": 4,
        }
        whole, wanted = run(bridge, **settings)
        torch.manual_seed(1)
        assert digest(run(bridge, **settings)[0]) == digest(whole)
        assert digest(run(bridge, seed=1, **settings)[0]) != digest(whole)
        real, done = training.take_step, 0

        def stop(*arguments):
            nonlocal done
            done += 1
            if done > 6:
                raise KeyboardInterrupt
            return real(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(training, "take_step", stop)
            with pytest.raises(KeyboardInterrupt):
                localize_in(bridge, tmp_path, settings)
        torch.manual_seed(2)
        resumed, history = localize_in(bridge, tmp_path, settings)
    assert digest(resumed) == digest(whole)
    assert history.record() == wanted.record()


def localize_in(model, folder, settings):
    chosen = TrainConfig(steps=settings["steps"], rate=5e-3, evaluate_every=settings["evaluate_every"])
    config = LocalizeConfig(
        training=chosen, strength=3e-3, examples=settings["examples"], held_out=settings["held_out"]
    )
    return localize(model, settings["kept"], config, seed=0, watched=(), checkpoints=Checkpoints(folder, 1))


def test_what_cannot_be_localized(trained, llama):
    for settings, cure in (
        ({"strength": -1.0}, "at least 0"),
        ({"strength": 0.0, "wanted_live": 4}, "use a positive number"),
        ({"wanted_live": 4, "wanted_loss": 0.1}, "give one"),
        ({"wanted_live": 0}, "at least 1"),
        ({"threshold": float("nan")}, "use a positive"),
        ({"kinds": ("head",)}, "name one of these"),
        ({"kept": ()}, "at least one"),
        ({"kept": (KEPT, KEPT)}, "its own name"),
        ({"watched": (KEPT,)}, "its own name"),
    ):
        with pytest.raises(ValueError, match=cure):
            run(trained, **settings)
    weight = llama.blocks[0].mlp.gate.weight
    weight.requires_grad_(False)
    try:
        with pytest.raises(ValueError, match="set its requires_grad to True"):
            run(llama, kept=[tokens_subtask()], watched=(), examples=4)
    finally:
        weight.requires_grad_(True)
