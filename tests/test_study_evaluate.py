"""Our scorer beside lm-eval on the same local file, per item."""

import json

import numpy as np
import pytest
import torch

from skilloc.cli import main
from skilloc.experiment import hold, zero_reference
from skilloc.masks import Mask
from skilloc.models.language import EMBEDDED, Opened, open_model
from skilloc.models.makers import units_of
from skilloc.pruning import prune
from skilloc.study.evaluate import evaluate, score

ROWS = [
    {"question": f"What has {i} legs?", "choices": [f"a thing of {i + k}" for k in range(3)], "answer": i % 3}
    for i in range(12)
]
PAIRS = [(f"Question: {row['question']}\nAnswer:", f" {said}") for row in ROWS for said in row["choices"]]


@pytest.fixture(scope="module")
def opened():
    return open_model("embedded")


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    (folder / "legs.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (folder / "legs.yaml").write_text(
        f"""task: legs
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder / "legs.jsonl"}
test_split: test
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
"""
    )
    return folder / "legs.yaml"


def test_scores_are_those_of_a_plain_loop(opened):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(EMBEDDED).eval()
    found = score(opened, PAIRS[:6], batch=4)
    for (context, said), one in zip(PAIRS[:6], found, strict=True):
        before, both = (opened.tokenizer(t, add_special_tokens=False)["input_ids"] for t in (context, context + said))
        with torch.no_grad():
            scores = model(torch.tensor([both])).logits[0].double().log_softmax(dim=-1)
        places = range(len(before) - 1, len(both) - 1)
        assert one.nats == pytest.approx(sum(float(scores[p, both[p + 1]]) for p in places), abs=1e-4)
        assert one.greedy == all(int(scores[p].argmax()) == both[p + 1] for p in places)


def test_without_lm_eval_the_cure_is_told(opened, task, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"skilloc\[eval\]"):
        evaluate(opened, task)


def test_every_item_is_scored_as_lm_eval_scores_it(opened, task):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    theirs = simple_evaluate(
        model=HFLM(pretrained=str(EMBEDDED), device="cpu", dtype="float32", batch_size=4),
        tasks=["legs"],
        task_manager=TaskManager(include_path=str(task.parent), include_defaults=False),
        bootstrap_iters=0,
    )
    ours = evaluate(opened, task)
    assert ours.metrics["acc,none"] == theirs["results"]["legs"]["acc,none"]
    for one, other in zip(ours.samples, theirs["samples"]["legs"], strict=True):
        assert one["doc_id"] == other["doc_id"]
        for mine, their in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            assert float(mine[0]) == pytest.approx(float(their[0]), abs=1e-4)
            assert mine[1] == their[1]


def test_held_units_change_what_the_harness_finds(opened, task):
    units = units_of(opened.model, kinds=("head",))
    nobody = evaluate(opened, task, mask=Mask(units, torch.zeros(len(units), dtype=torch.bool).numpy()), limit=3)
    everybody = evaluate(opened, task, mask=Mask(units, torch.ones(len(units), dtype=torch.bool).numpy()), limit=3)
    plain = evaluate(opened, task, limit=3)

    def scores(found):
        return [float(one[0]) for sample in found.samples for one in sample["filtered_resps"]]

    assert scores(everybody) == pytest.approx(scores(plain), abs=1e-5)
    assert scores(nobody) != pytest.approx(scores(plain), abs=1e-2)


def test_a_pruned_model_scores_as_the_held_one(opened, task):
    units = units_of(opened.model, kinds=("neuron",))
    mask = Mask(units, np.arange(len(units)) % 4 > 0)
    smaller = Opened(prune(opened.model, mask), opened.tokenizer, "pruned")
    with hold(opened.model, mask, zero_reference(units)):
        held = [one.nats for one in score(opened, PAIRS[:6])]
    assert [one.nats for one in score(smaller, PAIRS[:6])] == pytest.approx(held, abs=1e-4)
    assert held != pytest.approx([one.nats for one in score(opened, PAIRS[:6])], abs=1e-2)
    both = [evaluate(smaller, task, limit=2), evaluate(opened, task, mask=mask, limit=2)]
    found = [[float(one[0]) for sample in run.samples for one in sample["filtered_resps"]] for run in both]
    assert found[0] == pytest.approx(found[1], abs=1e-4)


def test_the_command(task, capsys):
    main(["evaluate", "embedded", "--tasks", str(task), "--limit", "3"])
    assert "legs: 3 items" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (("task: legs", "task: [a"), "is not YAML"),
        (("{{question}}", "{{nokey}}"), r'cannot run the task "legs" of .*nokey.*mend what it says'),
        (("doc_to_choice: choices", "doc_to_choice: nokey"), r'cannot run the task "legs"'),
    ],
)
def test_a_task_that_is_broken_is_named(opened, task, tmp_path, broken, said):
    text = task.read_text()
    assert broken[0] in text
    path = tmp_path / "legs.yaml"
    path.write_text(text.replace(*broken))
    with pytest.raises(ValueError, match=said):
        evaluate(opened, path)
