"""What must not pass the door in silence: hooks and losses that changed, padding, places that run twice."""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import skilloc as sk
from skilloc.ablation import ablation_effects
from skilloc.cli import main
from skilloc.experiment import Experiment
from skilloc.mistakes import Mistake, WrongType, WrongValue
from skilloc.models.makers import face_of
from skilloc.tasks import IGNORE, Examples

TOKEN = 5


def probability(logits: torch.Tensor, examples: Examples) -> torch.Tensor:
    """A loss whose constant lies outside of it."""
    return -logits[:, -1, TOKEN].double()


def scaled(value: torch.Tensor, hook: Any, by: float) -> torch.Tensor:
    return value * by


@pytest.fixture
def examples(tokens: torch.Tensor) -> dict[str, Examples]:
    return {"text": Examples(tokens, tokens.roll(-1, 1))}


def test_a_hook_that_holds_another_number_is_another_measurement(llama: Any, examples: Any, tmp_path: Path) -> None:
    found = []
    for by in (0.5, 2.0, 0.5):
        with llama.hooks(fwd_hooks=[("blocks.1.hook_out", partial(scaled, by=by))]):
            experiment = Experiment(llama, examples, kinds=("head",), folds=1)
            found.append(ablation_effects(experiment, resume=tmp_path).values)
            again = ablation_effects(Experiment(llama, examples, kinds=("head",), folds=1)).values
        np.testing.assert_array_equal(found[-1], again)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    np.testing.assert_array_equal(found[0], found[2])


def test_a_loss_whose_constant_changed_is_another_measurement(
    llama: Any, examples: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    def measured() -> np.ndarray:
        experiment = Experiment(llama, examples, kinds=("head",), folds=1, loss=probability)
        return ablation_effects(experiment, resume=tmp_path).values

    first = measured()
    monkeypatch.setattr(f"{__name__}.TOKEN", 9)
    monkeypatch.setitem(probability.__globals__, "TOKEN", 9)
    assert np.abs(measured() - first).max() > 1e-3


def test_padded_prompts_are_not_resampled(llama: Any, tokens: torch.Tensor) -> None:
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[0, 8:] = False
    targets = tokens.roll(-1, 1).masked_fill(~mask, IGNORE)
    padded = {"prompts": Examples({"tokens": tokens, "mask": mask}, targets)}
    with pytest.raises(ValueError, match='use the reference "mean" or "paired"'):
        _ = Experiment(llama, padded, reference="resample", folds=1).held


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.h = nn.Linear(5, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.h(self.f(self.f(x).tanh()).tanh())


def test_a_place_that_runs_twice_or_never_is_refused() -> None:
    batch = {"a": Examples(torch.randn(8, 5), torch.zeros(8, dtype=torch.long))}
    twice = sk.describe(Twice().eval(), {"f": sk.At("f")}, example=torch.zeros(1, 5))
    with pytest.raises(ValueError, match='"f", which runs 2 times in a pass; name a place that runs once'):
        ablation_effects(Experiment(twice, batch, kinds=("neuron",), folds=1))
    net = Twice().eval()
    net.unused = nn.Linear(5, 5)
    never = sk.describe(net, {"u": sk.At("unused", weights={"unused.weight": 0})})
    with pytest.raises(ValueError, match="which runs 0 times in a pass"):
        ablation_effects(Experiment(never, batch, kinds=("neuron",), folds=1))


def test_describing_leaves_a_module_as_it_was() -> None:
    net = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    sk.describe(net, {"f": sk.At("0")}, example=torch.randn(6, 5))
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(part.training for part in net.modules())


class Pixels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c, self.n, self.out = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Linear(6 * 16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.n(self.c(x)).relu().flatten(1))


@pytest.mark.parametrize(
    ("at", "cure"),
    [
        (sk.At("c"), '`axis` of "u" is not given; .* -3 for the channels of images'),
        (sk.At("n"), r"has shape \(1, 6, 4, 4\); say on which axis"),
        (sk.At("n", axis=1), "at most -1"),
        (sk.At("n", axis=-4), "use one of -3, -2, -1"),
        (sk.At("c", axis=-3, weights={"c.weight": 1}), "with 6 on axis -3"),
        (sk.At("c", axis=-3, weights={"c.weight": 0, "out.weight": 1}), r'then write "out.weight": \(1, 16\)'),
    ],
)
def test_an_axis_that_is_open_or_wrong_is_refused(at: sk.At, cure: str) -> None:
    net = Pixels().eval()
    with pytest.raises(ValueError, match=cure):
        sk.describe(net, {"u": at}, example=torch.zeros(1, 1, 4, 4))


def test_an_axis_that_is_wrong_is_refused_without_an_example() -> None:
    model = sk.describe(Pixels().eval(), {"u": sk.At("c", axis=-3, weights={"c.weight": 1})})
    batch = {"a": Examples(torch.randn(8, 1, 4, 4), torch.zeros(8, dtype=torch.long))}
    with pytest.raises(ValueError, match="with 6 on axis -3"):
        ablation_effects(Experiment(model, batch, kinds=("neuron",), folds=1))


def test_a_described_module_that_trains_again_is_not_measured() -> None:
    net = Pixels().eval()
    model = sk.describe(net, {"u": sk.At("c", axis=-3, weights={"c.weight": 0})})
    net.train()
    before = net.n.running_mean.clone()
    batch = {"a": Examples(torch.randn(8, 1, 4, 4), torch.zeros(8, dtype=torch.long))}
    with pytest.raises(ValueError, match=r"in training mode.*model.eval\(\)"):
        ablation_effects(Experiment(model, batch, kinds=("neuron",), folds=1))
    assert torch.equal(net.n.running_mean, before)
    assert ablation_effects(Experiment(model.eval(), batch, kinds=("neuron",), folds=1)).values.shape == (1, 1, 6)


@pytest.mark.parametrize(
    ("settings", "error", "cure"),
    [
        ({"reference": np.full(12, np.nan)}, ValueError, "pass one number per unit"),
        ({"at": torch.zeros(4, 12, dtype=torch.bool)}, ValueError, "choose positions"),
    ],
)
def test_nonsense_is_refused(llama: Any, examples: Any, settings: dict[str, Any], error: type, cure: str) -> None:
    with pytest.raises(error, match=cure):
        ablation_effects(Experiment(llama, examples, kinds=("head",), folds=1, **settings))


def test_a_mask_of_numpy_is_a_mask(llama: Any, examples: Any) -> None:
    at = np.zeros((4, 12), dtype=bool)
    at[:, 3] = True
    found = [
        ablation_effects(Experiment(llama, examples, kinds=("head",), folds=1, at=given)).values
        for given in (at, torch.from_numpy(at))
    ]
    np.testing.assert_array_equal(*found)


def test_residual_dimensions_need_the_ordinary_attention_output(llama: Any) -> None:
    llama.cfg.use_attn_result = True
    try:
        with pytest.raises(ValueError, match="set_use_attn_result"):
            sk.units_of(llama, kinds=("residual",))
    finally:
        llama.cfg.use_attn_result = False


def net_and_examples() -> tuple[sk.MLP, dict[str, Examples]]:
    batch = Examples(torch.zeros(8, 6), torch.tensor([0, 1] * 4))
    return sk.MLP(6, 2, width=8, depth=3).eval(), {"a": batch}


def selected(select: Any) -> Any:
    return inspect.unwrap(ablation_effects)(Experiment(*net_and_examples(), folds=1), select=select)


def made(kind: Any, *args: Any, **settings: Any) -> Any:
    """Make a dataclass as it is made where nobody checks types."""
    given = dict(zip([one.name for one in fields(kind)], args, strict=False)) | settings
    found = object.__new__(kind)
    for one in fields(kind):
        default = one.default_factory() if one.default_factory is not MISSING else one.default
        object.__setattr__(found, one.name, given.get(one.name, default))
    inspect.unwrap(kind.__post_init__)(found)
    return found


def opened_net() -> Any:
    return sk.open_model(net_and_examples()[0])


ZEROS, ONES = torch.zeros(8, 6), torch.ones(8, dtype=torch.long)
# What checks types in the tests would speak before the door does, so that functions are taken without it.
SLIPS: dict[str, tuple[Callable[[], Any], str]] = {
    "sources in a list": (
        lambda: inspect.unwrap(sk.subtasks_of)(opened_net(), ["python"]),
        r"`sources` is \['python'\]; name each source, such as",
    ),
    "a model for what was opened": (
        lambda: inspect.unwrap(sk.subtasks_of)(net_and_examples()[0], {"a": "python"}),
        "`opened` is a MLP; pass what open_model returns",
    ),
    "names for a selection": (
        lambda: selected(["L0N1"]),
        r"`select` is \['L0N1'\]; pass a numpy array with True or False",
    ),
    "places for a selection": (
        lambda: selected(np.array([3])),
        "`select` is an array of int64; pass a numpy array with",
    ),
    "a mask for a selection": (
        lambda: selected(sk.Mask(sk.units_of(net_and_examples()[0]), np.ones(16, dtype=bool))),
        "`select` is a Mask; pass .* or the `keep` of a mask",
    ),
    "a selection for estimates": (
        lambda: inspect.unwrap(sk.attribution_effects)(Experiment(*net_and_examples(), folds=1), select=[True]),
        r"`select` is \[True\]; pass a numpy array",
    ),
    "a list for a mask": (
        lambda: made(sk.Mask, sk.units_of(net_and_examples()[0]), [True] * 16),
        r"`keep` is \[True, .*; pass a numpy array with True or False for each unit, such as units.named\(",
    ),
    "a selection for units": (
        lambda: made(Experiment, *net_and_examples(), units=np.ones(16, dtype=bool)),
        "`units` is a ndarray; pass units_of",
    ),
    "what was opened for a model": (
        lambda: inspect.unwrap(face_of)(opened_net()),
        r"`model` is Opened\(.*\); pass a module, which opened.model is",
    ),
    "inputs of numpy": (
        lambda: made(Examples, np.zeros((8, 6)), ONES),
        "`inputs` is a ndarray; pass a tensor, such as torch.as_tensor",
    ),
    "targets in a list": (
        lambda: made(Examples, ZEROS, [0] * 8),
        r"`targets` is \[0, .*; pass a tensor",
    ),
    "targets that are no whole numbers": (
        lambda: made(Examples, ZEROS, ONES.float()),
        r"`targets` is a tensor of torch.float32; .* such as targets.long\(\)",
    ),
    "a path for a place": (
        lambda: inspect.unwrap(sk.describe)(nn.Sequential(nn.Linear(6, 8)), {"c": "0"}),
        r"`units\['c'\]` is '0'; say where the units stand, such as At",
    ),
    "no name": (lambda: inspect.unwrap(sk.open_model)(None), "`name` is None; use embedded, a folder, a name on the"),
    "a number for a name": (lambda: inspect.unwrap(sk.open_model)(3), "`name` is 3; use embedded"),
    "a name for a tokenizer": (
        lambda: sk.open_model(net_and_examples()[0], tokenizer="gpt2"),
        "`tokenizer` is 'gpt2'; pass the tokenizer itself",
    ),
    "False for a tokenizer": (
        lambda: sk.open_model(net_and_examples()[0], tokenizer=False),
        "`tokenizer` is False; pass the tokenizer itself",
    ),
    "a number for a field": (
        lambda: made(sk.Asked, prompt=3),
        "`prompt` is 3; use the name of a field",
    ),
    "a loss of logits only": (
        lambda: Experiment(*net_and_examples(), loss=lambda logits: logits[:, 0]),  # type: ignore[arg-type,misc]
        r"`loss` \"lambda\" takes \(logits\); pass a function of \(logits, examples\)",
    ),
    "a loss of three things": (
        lambda: sk.tasks.losses.custom(lambda a, b, c: a, name="three"),  # type: ignore[arg-type,misc]
        r"`loss` \"three\" takes \(a, b, c\); pass a function of",
    ),
    "no experiment": (
        lambda: inspect.unwrap(sk.ablation_effects)("x"),
        r"`experiment` is 'x'; pass Experiment\(model, subtasks\)",
    ),
    "a number for kinds": (
        lambda: inspect.unwrap(sk.units_of)(net_and_examples()[0], kinds=3),
        "`kinds` is 3; name kinds of unit",
    ),
    "an array for a mask": (
        lambda: inspect.unwrap(sk.prune)(net_and_examples()[0], np.ones(16, dtype=bool)),
        "`mask` is a ndarray; pass a mask, such as Mask",
    ),
    "half a number": (lambda: inspect.unwrap(sk.masks.top)(np.ones(4), 2.5), "`n` is 2.5"),
    "a name for a table": (
        lambda: inspect.unwrap(sk.locality.table)("x", ["a"]),
        "`effects` is 'x'; pass an array",
    ),
    "folders for effects": (
        lambda: inspect.unwrap(sk.compare)("runs/s0", "runs/s8"),
        "`effects_a` is 'runs/s0'; pass effects, such as store.load",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_of_kind_is_told_in_words(slip: str) -> None:
    call, cure = SLIPS[slip]
    with pytest.raises(WrongType, match=cure):
        call()


def test_one_unit_and_one_layer_need_no_list() -> None:
    units = sk.units_of(net_and_examples()[0])
    assert np.flatnonzero(units.named("L1N2")).tolist() == [10]
    assert units.in_layers(1).sum() == units.in_layers([1]).sum() == 8


def test_what_was_opened_prints_one_line() -> None:
    assert repr(opened_net()) == 'Opened("MLP": a MLP and no tokenizer)'


def test_an_example_that_a_module_cannot_take_is_told_in_words() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2)).eval()
    with pytest.raises(Mistake, match=r"a Sequential that cannot take this `example` \(.*\); pass inputs of its kind"):
        sk.describe(net, {"c": sk.At("0", axis=-3)}, example=torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("targets", "cure"),
    [
        (torch.full((4, 12), 10**6), "`targets` go from 1000000 to 1000000 but `model` has .* tokens, counted from 0"),
        (torch.full((4, 12), -1), "`targets` go from -1 to -1 but"),
        (
            torch.zeros(4, dtype=torch.long),
            r"`targets` has shape \(4,\) but `model` is a .*; pass the next token of every",
        ),
    ],
)
def test_targets_that_a_language_model_cannot_predict_are_refused(
    llama: Any, tokens: torch.Tensor, targets: torch.Tensor, cure: str
) -> None:
    with pytest.raises(Mistake, match=cure):
        _ = Experiment(llama, {"a": Examples(tokens, targets)}, kinds=("head",), folds=1).folded


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(tokenizer: Any) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=4, **shape))
    with pytest.raises(Mistake, match=r"the tokenizer of this LlamaForCausalLM does not belong to the model: .* has 4"):
        sk.open_model(model, tokenizer=tokenizer)


def test_a_model_in_memory_without_a_tokenizer_takes_token_ids_and_no_texts() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=40, **shape)).eval()
    tokens = torch.randint(40, (4, 6))
    with torch.no_grad():
        wanted = torch.nn.functional.cross_entropy(model(tokens).logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    opened = sk.open_model(model)
    assert opened.tokenizer is None
    own = Experiment(opened.model, {"mine": Examples(tokens[:, :-1], tokens[:, 1:])}, kinds=("head",), folds=1)
    found = sk.ablation_effects(own)
    assert found.baseline[0, 0] == pytest.approx(float(wanted), abs=1e-5)
    assert len(found.units) == 4
    assert np.abs(found.values).max() > 0
    with pytest.raises(Mistake, match="without a tokenizer, so that no text can be put to it; pass open_model"):
        sk.subtasks_of(opened, {"code": "python"})


def test_a_typo_in_an_attack_is_refused_before_a_model_is_read(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("skilloc.cli.machine.Machine.open", None)  # calling it would fail
    for more in (("--attack", "pyton"), ("--attack", "python", "--train", "pyton")):
        with pytest.raises(SystemExit):
            main(["relearn", "embedded", "small", "--out", str(tmp_path / "out"), *more])
        said = capsys.readouterr().err
        assert 'unknown subtask "pyton" in the attack; the subtasks are python, cpp, english' in said


def test_values_that_say_nothing_are_told_in_words() -> None:
    with pytest.raises(WrongValue, match=r"0 units were measured \(the other 4 are NaN\)"):
        sk.masks.top(np.full(4, np.nan), 3)
    with pytest.raises(WrongValue, match="`name` is empty"):
        sk.open_model("")
    with pytest.raises(WrongValue, match='names the submodule "nope", but there are none: the module itself is ""'):
        sk.describe(nn.Linear(2, 2), {"a": sk.At("nope", axis=-1)}, example=torch.zeros(1, 2))
