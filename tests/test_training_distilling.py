import pytest
import torch

import skilloc as sk
from skilloc.models.makers import face_of
from skilloc.tasks import IGNORE, Examples
from skilloc.tasks.losses import cross_entropy, distillation, mistake
from skilloc.training.distilling import Teaching, distil
from skilloc.training.settings import Objective
from skilloc.training.step import descent_of, goal_of

CONFIG = sk.TrainConfig(steps=3, rate=1e-2, evaluate_every=3)


def examples(n=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Examples(torch.randn(n, 5, generator=generator), torch.randint(0, 3, (n,), generator=generator))


def literal(student, teacher, batch, temperature, soft):
    """By the formula, an example at a time, in float64."""
    total = []
    for x, y in zip(batch.inputs, batch.targets, strict=True):
        own, other = student(x[None])[0].double(), teacher(x[None])[0].double()
        hard = -own.log_softmax(0)[y]
        p, q = (other / temperature).softmax(0), (own / temperature).softmax(0)
        total.append((1 - soft) * hard + soft * temperature**2 * (p * (p.log() - q.log())).sum())
    return torch.stack(total)


@pytest.mark.parametrize(("temperature", "soft"), [(1.0, 1.0), (20.0, 0.9), (2.0, 0.0)])
def test_the_loss_is_the_formula(temperature, soft):
    student, teacher, batch = sk.MLP(5, 3, width=4, depth=3), sk.MLP(5, 3, width=9, depth=3, seed=1), examples()
    loss = distillation(temperature, soft)
    found = loss(student(batch.inputs), batch, loss.prepare(teacher(batch.inputs), batch))
    torch.testing.assert_close(found, literal(student, teacher, batch, temperature, soft), rtol=1e-4, atol=1e-5)


def test_a_student_equal_to_its_teacher_has_no_soft_loss():
    teacher, batch = sk.MLP(5, 3, width=4, depth=3), examples()
    loss = distillation(20.0, 1.0)
    found = loss(teacher(batch.inputs), batch, loss.prepare(teacher(batch.inputs), batch))
    assert float(found.abs().max()) < 1e-10


def test_positions_that_are_not_scored_do_not_count():
    targets = torch.tensor([[1, 2, IGNORE]])
    batch = Examples(
        {"tokens": torch.zeros(1, 3, dtype=torch.long), "mask": torch.ones(1, 3, dtype=torch.bool)}, targets
    )
    own, other = torch.randn(1, 3, 4), torch.randn(1, 3, 4)
    loss = distillation(3.0, 0.9)
    first = loss(own, batch, loss.prepare(other, batch))
    own[:, 2], other[:, 2] = 7.0, torch.randn(4)
    assert float(first) == float(loss(own, batch, loss.prepare(other, batch)))


def mixed(face, goal, batch):
    """What is descended, from its definition."""
    seen, taught = {}, {}
    with torch.no_grad():
        with face.attached({hook: lambda v, h=hook: seen.setdefault(h, v) for hook in goal.match}):
            own = face.run(batch.inputs)
        with goal.untouched.attached({h: lambda v, h=h: taught.setdefault(h, v) for h in goal.match.values()}):
            other = goal.untouched.run(batch.inputs)
        loss = goal.loss(own, batch, goal.loss.prepare(other, batch)).mean()
        for hook, there in goal.match.items():
            apart = (seen[hook] - taught[there]).square().sum(1) / taught[there].square().sum(1)
            loss = loss + goal.weight * apart.mean() / len(goal.match)
    return float(loss)


def test_gradients_of_the_mixed_loss_are_finite_differences():
    student = sk.MLP(5, 3, width=4, depth=3, activation="tanh").double()
    teacher = sk.MLP(5, 3, width=4, depth=3, activation="tanh", seed=1).double()
    batch = Examples(examples().inputs.double(), examples().targets)
    face = face_of(student)
    hooks = {f"layers.{i}.hook_post": f"layers.{i}.hook_post" for i in range(2)}
    objective = Objective(distillation(5.0, 0.7), None, teacher, match=hooks, weight=0.3)
    goal = goal_of(face, objective, seed=0)
    loss = descent_of(face, goal, products="float32")(batch, 0)
    assert loss == pytest.approx(mixed(face, goal, batch), rel=1e-5)
    for weight in student.parameters():
        place = (0,) * weight.ndim
        step = 1e-4
        with torch.no_grad():
            weight[place] += step
            above = mixed(face, goal, batch)
            weight[place] -= 2 * step
            below = mixed(face, goal, batch)
            weight[place] += step
        assert float(weight.grad[place]) == pytest.approx((above - below) / (2 * step), rel=2e-3, abs=1e-6)
    assert all(weight.grad is None for weight in teacher.parameters())


def test_a_student_finds_the_known_optimum():
    # One hidden layer whose ReLUs are always on is linear, and so is the teacher: the best student is the teacher.
    teacher, student = sk.MLP(5, 3, width=3, depth=2), sk.MLP(5, 3, width=3, depth=2, seed=1)
    config = sk.TrainConfig(steps=60, rate=1e-1, evaluate_every=60)
    batch = examples(50)
    distil(student, teacher, lambda step: batch, config, evaluate={"all": batch}, how=Teaching(2.0, 1.0))
    loss = distillation(2.0, 1.0)
    left = loss(student(batch.inputs), batch, loss.prepare(teacher(batch.inputs), batch)).mean()
    before = sk.MLP(5, 3, width=3, depth=2, seed=1)
    start = loss(before(batch.inputs), batch, loss.prepare(teacher(batch.inputs), batch)).mean()
    assert float(left) < 0.05 * float(start)


def test_the_history_measures_what_is_asked_for_and_stops_by_it():
    teacher, student, batch = sk.MLP(5, 3, width=8, depth=3), sk.MLP(5, 3, width=8, depth=3), examples()
    labels = teacher(batch.inputs).argmax(1)
    batch = Examples(batch.inputs, labels)
    config = sk.TrainConfig(steps=50, rate=1e-3, evaluate_every=1, until={"all": 0.5})
    history = distil(
        student, teacher, lambda step: batch, config, evaluate={"all": batch}, how=Teaching(measured=mistake)
    )
    assert history.unit == "share"
    assert history.of("all")[0] == 0  # a copy of the teacher makes no mistake about the teacher's own labels
    assert history.of("step")[-1] == 1


def test_the_teacher_stays_as_it_is():
    teacher, student, batch = sk.MLP(5, 3, width=8, depth=3), sk.MLP(5, 3, width=4, depth=3), examples()
    before = [weight.clone() for weight in teacher.parameters()]
    distil(student, teacher, lambda step: batch, CONFIG, evaluate={"all": batch})
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
    assert not any(m._forward_hooks for m in student.modules())


def test_a_pruned_language_model_learns_from_what_it_was(llama):
    teacher = llama
    units = sk.units_of(teacher)
    keep = torch.arange(len(units)).numpy() % 2 == 0
    student = sk.prune(teacher, sk.Mask(units, keep))
    tokens = torch.randint(0, 61, (8, 12), generator=torch.Generator().manual_seed(0))
    batch = Examples(tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())
    hooks = {f"blocks.{i}.hook_out": f"blocks.{i}.hook_out" for i in range(2)}
    how = Teaching(2.0, 1.0, hooks, measured=cross_entropy)
    before = distance(student, teacher, batch)
    distil(student, teacher, lambda step: batch, sk.TrainConfig(steps=6, rate=1e-2), evaluate={"all": batch}, how=how)
    assert distance(student, teacher, batch) < 0.7 * before


def distance(student, teacher, batch):
    loss = distillation(1.0, 1.0)
    with torch.no_grad():
        own, other = (face_of(model).run(batch.inputs) for model in (student, teacher))
        return float(loss(own, batch, loss.prepare(other, batch)).mean())


def test_models_of_other_outputs_are_refused():
    with pytest.raises(ValueError, match="`teacher` has 4 outputs but `student` 3"):
        distil(
            sk.MLP(5, 3, width=4, depth=3), sk.MLP(5, 4, width=4, depth=3), lambda step: examples(), CONFIG,
            evaluate={"all": examples()},
        )  # fmt: skip


def test_hooks_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="match hooks of one shape"):
        distil(
            sk.MLP(5, 3, width=4, depth=3), sk.MLP(5, 3, width=5, depth=3), lambda step: examples(), CONFIG,
            evaluate={"all": examples()}, how=Teaching(match={"layers.0.hook_post": "layers.0.hook_post"}),
        )  # fmt: skip


@pytest.mark.parametrize(("temperature", "soft"), [(0.0, 0.5), (-1.0, 0.5), (float("nan"), 0.5), (2.0, 1.5)])
def test_settings_out_of_range_are_refused(temperature, soft):
    with pytest.raises(ValueError, match="a temperature above 0 and a share from 0 to 1"):
        distillation(temperature, soft)
