# %% [markdown]
# # Is it gone?
#
# A small language model is pruned so that it keeps Python. Its loss on English rises; but is English gone, or only
# hidden? An attack tells: it trains the pruned model on English again, beside controls. Sizes are those of a
# demonstration; `analyses/embedded_unlearning.py` has the measurement.

# %%
import warnings

import numpy as np

import skilloc as sk

warnings.filterwarnings("ignore", message=".*might be better still")  # one rate is enough for a demonstration
opened = sk.open_model("embedded")
subtasks = sk.subtasks_of(opened, {"python": "python", "english": "english"}, length=16)
python, english = subtasks.values()

# %% [markdown]
# Drop a quarter of the neurons: those with the smallest effects on Python, on the split that chooses.

# %%
choosing = sk.Experiment(opened.model, {"python": python}, kinds=("neuron",), count=16, split="selection")
effects = np.abs(sk.attribution_effects(choosing).mean("python"))
mask = sk.Mask(choosing.units, sk.masks.top(effects, len(effects) * 3 // 4))
pruned = sk.prune(opened.model, mask)

# %% [markdown]
# What it costs, on the split that states, beside a random mask of the same size and layers.

# %%
stating = sk.Experiment(opened.model, subtasks, kinds=("neuron",), count=16)
rises, whole = sk.mask_effects(stating, [mask, sk.masks.matched_random(mask, seed=0)])
for name, rise in zip(["pruned", "random"], rises.mean(axis=1), strict=True):
    print(f"{name}: python {rise[0]:+.2f}, english {rise[1]:+.2f} nats above {whole.mean(axis=0).round(2)}")

# %% [markdown]
# The attack: every model at every rate and budget, after a repair on Python. The controls are the original, random
# masks, and networks of the pruned shape that were never trained.

# %%
seeds = (0, 1)
grid = sk.relearning.Grid(
    rates=(3e-4,), budgets=(1, 2, 4), examples=4, ways=sk.relearning.PLAIN_WAYS, held_out=8, folds=4, repair=4
)
models = sk.relearning.relearn_controls(opened.model, pruned, seeds=seeds) | {"pruned": pruned}
found = sk.relearn_probe(models, [english], english, grid, seeds, kept=[python])
for verdict in sk.relearning.verdicts(found):
    print(verdict.sentence)

# %% [markdown]
# The curves behind it: the loss on English under attack, at the only rate, from the model as it is.

# %%
losses = found.report[:, 0, 0, 0].mean(axis=(-2, -1))
for name, curve in zip(found.models, losses, strict=True):
    shown = [f"{step} steps {loss:.2f}" for step, loss in zip(found.steps, curve, strict=True)]
    print(f"{name:>14}: {', '.join(shown)}")
