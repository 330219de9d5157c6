import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional

from skilloc import training
from skilloc.models.language import digest
from skilloc.models.mlp import MLP
from skilloc.tasks import Examples
from skilloc.tasks.parity import parity_stream, parity_subtasks
from skilloc.training import Checkpoints, History, TrainConfig, train

SUBTASKS = parity_subtasks(10, atoms=2, k=2, composites=[(0, 1)])


def parts(seed=0, **settings):
    model = MLP(12, 2, 32, 3, seed=seed)
    evaluate = {name: subtask.draw(500, split="selection") for name, subtask in SUBTASKS.items()}
    config = TrainConfig(**{"steps": 60, "rate": 5e-3, "evaluate_every": 20, **settings})
    return model, parity_stream(SUBTASKS.values(), 100, seed=seed), config, evaluate


def run(seed=0, **settings):
    keywords = {k: settings.pop(k) for k in list(settings) if k in ("terms", "checkpoints")}
    model, sample, config, evaluate = parts(seed, **settings)
    return model, train(model, sample, config, evaluate=evaluate, **keywords)


def test_steps_are_those_of_a_plain_loop(monkeypatch):
    monkeypatch.setattr("skilloc.training.step.CACHED", 32 * 70)  # blocks of 70 rows, with a rest
    model, history = run()
    plain, sample, _, evaluate = parts()
    adam = torch.optim.Adam(plain.parameters(), lr=5e-3, eps=1e-5)
    seen = []
    for step in range(60):
        found = sample(step)
        loss = functional.cross_entropy(plain(found.inputs), found.targets)
        adam.zero_grad()
        loss.backward()
        adam.step()
        seen.append(loss.item())
    for mine, theirs in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)
    assert history.of("step").tolist() == [0, 20, 40, 60]
    assert history.of("examples").tolist() == [0, 6000, 12000, 18000]
    np.testing.assert_allclose(history.of("loss"), [seen[0], seen[19], seen[39], seen[59]], rtol=1e-4)
    batch = evaluate["composite_01"]
    with torch.no_grad():
        wanted = functional.cross_entropy(plain(batch.inputs), batch.targets).item()
    assert history.of("composite_01")[-1] == pytest.approx(wanted, rel=1e-4)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_same_seed_same_result_another_seed_another():
    first, again, other = run(), run(), run(seed=1)
    assert digest(first[0]) == digest(again[0]) != digest(other[0])
    assert first[1].record() == again[1].record() != other[1].record()


@pytest.mark.parametrize("products", ["float32", "bfloat16"])
def test_it_learns_atoms_and_composite(products):
    model, history = run(
        steps=1500, evaluate_every=100, until={"composite_01": 0.05, "parity_0": 0.05}, products=products
    )
    assert history.of("composite_01")[-1] < 0.05
    assert history.of("step")[-1] < 1500  # stopped as soon as both were learned
    assert history.of("composite_01")[0] == pytest.approx(math.log(2), abs=0.1)
    assert history.first_below("composite_01", 0.05) == history.of("step")[-1]
    assert history.first_below("composite_01", -1.0) is None
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


def test_steps_of_evaluation_may_be_given():
    (model, history), (plain, every) = run(evaluate_at=(1, 2, 20)), run()
    assert history.of("step").tolist() == [0, 1, 2, 20, 60]
    assert digest(model) == digest(plain)
    assert history.of("parity_0")[[0, 3, 4]].tolist() == every.of("parity_0")[[0, 1, 3]].tolist()


def test_terms_are_added_and_logged():
    def size(model):
        return 1e-2 * sum(p.square().sum() for p in model.parameters())

    plain, _ = run()
    held, history = run(terms={"size": size})
    assert history.of("size")[0] == pytest.approx(size(MLP(12, 2, 32, 3, seed=0)).item(), rel=1e-6)
    assert history.of("size")[-1] < history.of("size")[0]
    assert size(held) < size(plain)


def test_resume_gives_the_same_as_one_run(tmp_path, monkeypatch):
    whole, wanted = run(checkpoints=Checkpoints(tmp_path / "whole", data={"seed": 0}))
    real = training.take_step

    def stop(*arguments):
        stop.calls += 1
        if stop.calls > 50:
            raise KeyboardInterrupt
        return real(*arguments)

    stop.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(checkpoints=Checkpoints(tmp_path / "cut", 20, {"seed": 0}))
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["step_000000040"]
    stop.calls = -1000
    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", stop)
        model, history = run(checkpoints=Checkpoints(tmp_path / "cut", 20, {"seed": 0}))
    assert stop.calls == -1000 + 20
    assert digest(model) == digest(whole)
    assert history.record() == wanted.record()
    again, history = run(checkpoints=Checkpoints(tmp_path / "cut", data={"seed": 0}))
    assert digest(again) == digest(whole)
    assert history.record() == wanted.record()
    for change in ({"seed": 1}, {"rate": 1e-3}):
        with pytest.raises(ValueError, match="a folder of its own"):
            run(checkpoints=Checkpoints(tmp_path / "cut", data={"seed": 0}), **change)
    with pytest.raises(ValueError, match="a folder of its own"):
        run(checkpoints=Checkpoints(tmp_path / "cut", data={"seed": 1}))


def test_divergence_says_where():
    model, sample, config, evaluate = parts()

    def broken(step):
        found = sample(step)
        return replace(found, inputs=found.inputs * math.nan) if step == 7 else found

    with pytest.raises(FloatingPointError, match=r"step 7 .*use a smaller `rate`"):
        train(model, broken, config, evaluate=evaluate)
    assert not model.training


def test_history_as_json():
    _, history = run(steps=1)
    again = History.from_record(json.loads(json.dumps(history.record())))
    assert again.record() == history.record()
    with pytest.raises(ValueError, match="this history has step"):
        history.of("parity_7")
    with pytest.raises(ValueError, match="all the same length"):
        History({"a": np.zeros(2), "b": np.zeros(3)})


@pytest.mark.parametrize(
    ("settings", "cure"),
    [
        ({"steps": 0}, "at least 1"),
        ({"evaluate_every": 0}, "at least 1"),
        ({"evaluate_at": (4, 61)}, "use steps from 1"),
        ({"rate": 0.0}, "positive"),
        ({"until": {"parity_9": 0.1}}, "add its batch to `evaluate`"),
        ({"terms": {"loss": lambda model: 0}}, "use other names"),
        ({"terms": {"parity_0": lambda model: 0}}, "use other names"),
    ],
)
def test_settings_that_cannot_be(settings, cure):
    with pytest.raises(ValueError, match=cure):
        run(**settings)


def test_blocks_hold_for_unscored_targets_of_sequences(native_plain_ln, tokens, monkeypatch):
    """A language model takes the same loop; with rate about 0 it comes back as it was."""
    targets = tokens[:, 1:].clone()
    targets[0, 4:] = -100
    batch = Examples(tokens[:, :-1], targets)
    config = TrainConfig(steps=1, rate=1e-30)
    before = {name: p.detach().clone() for name, p in native_plain_ln.named_parameters()}
    requires = {name: p.requires_grad for name, p in native_plain_ln.named_parameters()}
    try:
        monkeypatch.setattr("skilloc.training.step.STARTED", 1)
        history = train(native_plain_ln, lambda _: batch, config, evaluate={"text": batch})
        with torch.no_grad():
            logits = native_plain_ln(batch.inputs)
        wanted = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100).item()
        assert history.of("loss")[0] == pytest.approx(wanted, rel=1e-5)
    finally:
        with torch.no_grad():
            for name, parameter in native_plain_ln.named_parameters():
                parameter.copy_(before[name])
                parameter.requires_grad_(requires[name])


class Shrink:
    """A rule that halves the weights after every step, as often as it was told to."""

    def __init__(self, left):
        self.left, self.model = left, None

    def after_step(self, optimiser):
        if self.left > 0:
            self.left -= 1
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    with torch.no_grad():
                        parameter *= 0.5

    def after_evaluation(self, row):
        return {"left": float(self.left)}

    def state(self):
        return {"left": self.left}

    def restore(self, state):
        self.left = int(state["left"])


def test_rules_act_after_each_step_and_log_and_survive_checkpoints(tmp_path, monkeypatch):
    subtasks = parity_subtasks(6, atoms=2, k=2)
    evaluate = {name: subtask.draw(50, split="selection") for name, subtask in subtasks.items()}

    def run(steps, checkpoints=None):
        model = MLP(8, 2, 4, 3)
        config = TrainConfig(steps=12, rate=1e-9, evaluate_every=4)
        history = train(
            model, parity_stream(subtasks.values(), 20, seed=0), config, evaluate=evaluate, rules=[Shrink(steps)],
            checkpoints=checkpoints and Checkpoints(checkpoints, 4),
        )  # fmt: skip
        return model, history

    model, history = run(6)
    assert history.of("left").tolist() == [5, 2, 0, 0]
    assert torch.allclose(model.out.weight, MLP(8, 2, 4, 3).out.weight / 2**6, rtol=1e-4)
    real = training.take_step
    done = 0

    def stop(*arguments):
        nonlocal done
        done += 1
        if done > 6:
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training, "take_step", stop)
        with pytest.raises(KeyboardInterrupt):
            run(6, tmp_path / "run")
    again, resumed = run(6, tmp_path / "run")
    assert resumed.of("left").tolist() == [5, 2, 0, 0]
    assert torch.equal(again.out.weight, model.out.weight)


@pytest.mark.parametrize(
    ("optimiser", "plain"),
    [
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.05, eps=1e-5, weight_decay=0.1)),
    ],
)
def test_optimisers_are_those_of_torch(optimiser, plain):
    subtasks = parity_subtasks(6, atoms=2, k=2)
    stream = parity_stream(subtasks.values(), 20, seed=0)
    evaluate = {name: subtask.draw(50, split="selection") for name, subtask in subtasks.items()}
    config = TrainConfig(steps=5, rate=0.05, optimiser=optimiser, weight_decay=0.1)
    fast, slow = MLP(8, 2, 4, 3), MLP(8, 2, 4, 3)
    train(fast, stream, config, evaluate=evaluate)
    steps = plain(slow.parameters())
    for step in range(5):
        found = stream(step)
        steps.zero_grad()
        torch.nn.functional.cross_entropy(slow(found.inputs), found.targets).backward()
        steps.step()
    for a, b in zip(fast.parameters(), slow.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)
