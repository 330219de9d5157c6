import json

import numpy as np
import pytest
import torch

import smollm2_behaviours as analysis
from _behaviours import KNOWN, Part, experiment_of, resampled
from _behaviours_drawn import draw
from _frame import Cells
from skilloc import plots
from skilloc.experiment import read_activations
from skilloc.models.language import open_model
from skilloc.models.makers import units_of
from skilloc.store import Labelled, Result
from skilloc.tasks import IGNORE, Examples
from skilloc.tasks.examples import MASK, TOKENS


@pytest.mark.long
def test_the_quick_scale_is_measured_and_drawn(tmp_path):
    found = json.loads(json.dumps(analysis.measure(analysis.SCALES["quick"], Cells(tmp_path))))
    told, names = found["known"], found["subtasks"]
    facts = {name for name, one in told["facts"].items() if len(one["right"]) >= KNOWN}
    made = {name for name, one in told["made"].items() if one["able"]}
    assert set(names) == {*facts, *made, *analysis.CORPORA}
    shape = (len(names), len(names))
    for reference in ("zero", "resample"):
        assert np.array(found["removal"][reference]["excess"]["value"]).shape == shape
        assert set(found["locality"]["head"][reference]["scores"]) == set(names)
    assert set(found["locality"]["neuron"]["zero"]["spearman"]) == set(names)
    with plots.style():
        draw(found).savefig(tmp_path / "drawn.svg")


def test_resampling_takes_another_row_of_the_same_subtask_by_its_end():
    model = open_model("embedded").model
    units = units_of(model, kinds=("head",))
    generator = torch.Generator().manual_seed(0)

    def rows(lengths):
        longest = max(lengths)
        tokens = torch.randint(5, 500, (len(lengths), longest), generator=generator)
        mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
        return Examples({TOKENS: tokens * mask, MASK: mask}, (tokens + 1).where(mask, IGNORE))

    own = {"one": rows([4, 6]), "other": rows([5, 5, 3])}
    found = resampled(model, own, units, seed=0)
    hook = units.hooks[0]
    for name, start in (("one", 0), ("other", 2)):
        seen = read_activations(model, own[name], units)[hook]
        lengths = own[name].mask.sum(dim=1).tolist()
        for r, length in enumerate(lengths):
            held = found.values[hook][start + r]
            fits = [
                o
                for o, other in enumerate(lengths)
                if o != r
                and torch.allclose(held[0], seen[o, 0], atol=1e-5)
                and all(
                    torch.allclose(held[t], seen[o, max(1, other - length + t)], atol=1e-5) for t in range(1, length)
                )
            ]
            assert len(fits) == 1


def test_heads_of_induction_are_counted_beside_those_that_match_prefixes(monkeypatch):
    scores = np.array([0.9, 0.1, 0.8, 0.0, 0.2, 0.0, 0.1, 0.0])
    monkeypatch.setattr(analysis, "prefix_matching", lambda name: scores)
    even, odd = np.array([5.0, 4, 0, 0, 0, 0, 0, 0]), np.array([5.0, 0, 0, 0, 3, 0, 0, 0])
    effects = Labelled(np.stack([even, odd, even, odd])[:, None], ("fold", "subtask", "unit"))
    part = Part("embedded", "long", (("induction", ()),), 4, 12, reference="mean")
    scale = analysis.SCALES["quick"]
    told = analysis._induction(scale, [part], [Result({}, {}, {"effects": effects})])
    assert (told["top"], told["chance"]) == (2, 0.5)  # two of eight by each
    found = told["by reference"]["mean"]
    assert found["shared"] == 1
    assert found["again"] == 1
    assert found["ranks"] == [1, 4]
    # Of 28 pairs, 15 have none of the two.
    assert found["likely"] == pytest.approx(13 / 28)


def test_restoring_puts_what_is_right_into_the_run_of_the_twin():
    """Restoring one head equals a plain run of the twin in which that head has its activation of the right prompt."""
    part = Part("embedded", "short", (("arguments", ()),), 6, 12, restore=True)
    own = experiment_of(part)
    model, examples = own.model, own.folded.examples
    bank = own.units.banks[1]
    seen = []
    with torch.no_grad():
        right = {"attention_mask": examples.mask.long()}
        model.run_with_hooks(
            examples.paired[TOKENS], **right, fwd_hooks=[(bank.name, lambda value, hook: seen.append(value.clone()))]
        )

        def put(value, hook):
            value[:, :, 2] = seen[0][:, :, 2]
            return value

        logits = model.run_with_hooks(examples.tokens, **right, fwd_hooks=[(bank.name, put)])
    from skilloc.ablation import ablation_effects

    select = np.zeros(len(own.units), dtype=bool)
    unit = own.units.span(bank.name).start + 2
    select[unit] = True
    wanted = own.metric(logits, examples).numpy() - own.losses()
    assert ablation_effects(own, select=select).values[:, 0, unit] == pytest.approx(wanted, abs=1e-5)
