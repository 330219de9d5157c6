"""Which parts of a network carry a skill, how local is it, and if they are removed, does it stay removed?

The public names are imported when they are first used, so that `import skilloc` costs nothing. Type checkers read them
in the stub beside this file.
"""

from importlib import import_module
from typing import Any

_ROOMS = {
    "skilloc": ("circuits", "locality", "masks", "plots", "pruning", "relearning", "report", "store", "tasks"),
    "skilloc.tasks": ("losses",),
}
"""Public modules, by what holds them."""

_HOMES = {
    "skilloc.ablation": ("ablation_effects", "mask_effects"),
    "skilloc.ablation.removal": ("removal_effects",),
    "skilloc.attribution": ("attribution_effects",),
    "skilloc.attribution.calibration": ("calibrate",),
    "skilloc.circuits.comparison": ("compare",),
    "skilloc.circuits.trace": ("trace_circuit",),
    "skilloc.effects": ("Effects",),
    "skilloc.experiment": ("Experiment", "hold"),
    "skilloc.lasso": ("LocalizeConfig", "localize"),
    "skilloc.masks": ("Mask",),
    "skilloc.models.at": ("At",),
    "skilloc.models.described": ("describe",),
    "skilloc.models.language": ("open_model",),
    "skilloc.models.makers": ("save_model", "units_of"),
    "skilloc.models.mlp": ("MLP",),
    "skilloc.pruning": ("prune",),
    "skilloc.relearning": ("relearn_probe",),
    "skilloc.study.draws": ("subtasks_of",),
    "skilloc.tasks": ("Examples", "Subtask"),
    "skilloc.tasks.asked": ("Asked",),
    "skilloc.tasks.parity": ("parity_subtasks",),
    "skilloc.tasks.prompts": ("choices", "prompts"),
    "skilloc.training": ("TrainConfig", "train"),
}
_HOME = {name: home for homes in (_ROOMS, _HOMES) for home, names in homes.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        return import_module("importlib.metadata").version("skilloc")
    if name not in _HOME:
        raise AttributeError(f'skilloc has no "{name}"; it has {", ".join(__all__)}')
    home = _HOME[name]
    is_room = name in _ROOMS.get(home, ())
    found = globals()[name] = import_module(f"{home}.{name}") if is_room else getattr(import_module(home), name)
    return found


def __dir__() -> list[str]:
    return __all__
