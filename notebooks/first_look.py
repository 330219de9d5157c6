# %% [markdown]
# # A first look
#
# Which units of a small language model do Python and English need, are they the same, and what happens without them?

# %%
import numpy as np

import skilloc as sk

opened = sk.open_model("embedded")
subtasks = sk.subtasks_of(opened, {"python": "python", "english": "english"}, length=32)
experiment = sk.Experiment(opened.model, subtasks, reference="mean", count=16)
print(f"{len(experiment.units)} units; loss {experiment.baseline.mean(axis=0).round(2)} nats on {list(subtasks)}")

# %% [markdown]
# Every head, exactly; every neuron, estimated from gradients. Both are `Effects`: arrays on `fold subtask unit`.

# %%
heads = np.array([kind == "head" for kind in experiment.units.kinds])
estimated = sk.attribution_effects(experiment)
effects = estimated.overlay(sk.ablation_effects(experiment, select=heads))
for name in effects.subtasks:
    strongest = np.argsort(-effects.mean(name))[:5]
    print(name, *(f"{effects.units.names[unit]} {effects.mean(name)[unit]:.2f}" for unit in strongest))

# %% [markdown]
# The map: a row per layer and subtask, a column per unit. Red is needed, blue harmful.

# %%
values = effects.values.mean(axis=0)[:, heads]
norm = sk.plots.effect_norm(values, noise=0.01)
with sk.plots.style():
    figure, axes = sk.plots.figure(height=4.0)
    sk.plots.unit_map(axes, values, effects.units.layers[heads], norm=norm)
    sk.plots.colour_bar(figure, [axes], norm=norm, label=f"effect ({effects.unit})")
figure  # noqa: B018 (a notebook shows it)

# %% [markdown]
# How few units carry each subtask, and are they the same ones?

# %%
for name, scores in sk.locality.table(effects.values, effects.subtasks).items():
    few = scores["effective_number"]
    print(f"{name}: {few.value:.0f} units [{few.low:.0f}, {few.high:.0f}], chance {few.chance:.0f}")
shared = sk.locality.overlap(effects.values)
print(f"overlap {shared.value[0, 1]:.2f} [{shared.low[0, 1]:.2f}, {shared.high[0, 1]:.2f}]")

# %% [markdown]
# Where the folds cannot tell a score from noise, it is nan, and its interval everything that is possible.
#
# Take the ten that Python needs most away together, and as many random ones of the same layers. The ten are chosen on
# other text than the loss is stated on.

# %%
chosen_by = sk.attribution_effects(experiment.on("selection")).mean("python")
python = sk.masks.drop_top(effects.units, chosen_by, 10)
masks = [python, *(sk.masks.matched_random(python, seed=seed) for seed in range(3))]
rises, _ = sk.mask_effects(experiment, masks)
for name, rise in zip(["the ten", "random", "random", "random"], rises.mean(axis=1), strict=True):
    print(f"without {name}: python {rise[0]:+.2f}, english {rise[1]:+.2f} nats")
