"""Which parts of a network carry a skill, how local is it, and if they are removed, does it stay removed?

The public names are imported when they are first used, so that `import skilloc` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skilloc import locality as locality
    from skilloc import losses as losses
    from skilloc import plots as plots
    from skilloc import store as store
    from skilloc.ablation import ablation_effects as ablation_effects
    from skilloc.ablation import mask_effects as mask_effects
    from skilloc.attribution import attribution_effects as attribution_effects
    from skilloc.attribution import integrated_gradients_effects as integrated_gradients_effects
    from skilloc.calibration import Calibration as Calibration
    from skilloc.calibration import calibrate as calibrate
    from skilloc.circuits.edges import edge_effects as edge_effects
    from skilloc.circuits.faithfulness import faithfulness as faithfulness
    from skilloc.circuits.overlap import consensus as consensus
    from skilloc.circuits.patching import attribution_circuit as attribution_circuit
    from skilloc.circuits.trace import Tracing as Tracing
    from skilloc.circuits.trace import trace_circuit as trace_circuit
    from skilloc.effects import Effects as Effects
    from skilloc.experiment import Experiment as Experiment
    from skilloc.intervene import Reference as Reference
    from skilloc.intervene import hold as hold
    from skilloc.intervene import mean_reference as mean_reference
    from skilloc.intervene import resample_reference as resample_reference
    from skilloc.intervene import zero_reference as zero_reference
    from skilloc.lasso import LocalizeConfig as LocalizeConfig
    from skilloc.lasso import group_norms as group_norms
    from skilloc.lasso import localize as localize
    from skilloc.losses import Loss as Loss
    from skilloc.losses import custom as custom
    from skilloc.masks import Mask as Mask
    from skilloc.masks import drop_top as drop_top
    from skilloc.masks import matched_random as matched_random
    from skilloc.masks import sample as sample
    from skilloc.masks import top as top
    from skilloc.masks import top_of_any as top_of_any
    from skilloc.models.described import At as At
    from skilloc.models.described import describe as describe
    from skilloc.models.language import encoder as encoder
    from skilloc.models.language import open_model as open_model
    from skilloc.models.language import separator as separator
    from skilloc.models.makers import save_model as save_model
    from skilloc.models.makers import units_of as units_of
    from skilloc.models.mlp import MLP as MLP
    from skilloc.models.mlp import open_mlp as open_mlp
    from skilloc.models.mlp import save_mlp as save_mlp
    from skilloc.positions import PositionEffects as PositionEffects
    from skilloc.positions import position_effects as position_effects
    from skilloc.pruning import Curve as Curve
    from skilloc.pruning import Recovery as Recovery
    from skilloc.pruning import effects_again as effects_again
    from skilloc.pruning import keep as keep
    from skilloc.pruning import prune as prune
    from skilloc.pruning import pruning_curve as pruning_curve
    from skilloc.pruning import recover as recover
    from skilloc.pruning import remaining as remaining
    from skilloc.relearning import Grid as Grid
    from skilloc.relearning import Relearning as Relearning
    from skilloc.relearning import relearn_controls as relearn_controls
    from skilloc.relearning import relearn_probe as relearn_probe
    from skilloc.relearning import verdicts as verdicts
    from skilloc.removal import Removal as Removal
    from skilloc.removal import pair_interactions as pair_interactions
    from skilloc.removal import removal_effects as removal_effects
    from skilloc.report import circuit_page as circuit_page
    from skilloc.report import report_page as report_page
    from skilloc.report import top_examples as top_examples
    from skilloc.study.draws import subtasks_of as subtasks_of
    from skilloc.study.measure import measure as measure
    from skilloc.study.settings import Settings as Settings
    from skilloc.tasks import IGNORE as IGNORE
    from skilloc.tasks import Examples as Examples
    from skilloc.tasks import Subtask as Subtask
    from skilloc.tasks.parity import parity_stream as parity_stream
    from skilloc.tasks.parity import parity_subtasks as parity_subtasks
    from skilloc.tasks.stream import stream as stream
    from skilloc.tasks.text import documents as documents
    from skilloc.tasks.text import text_subtask as text_subtask
    from skilloc.tasks.world import open_world as open_world
    from skilloc.tasks.world import save_world as save_world
    from skilloc.training import History as History
    from skilloc.training import TrainConfig as TrainConfig
    from skilloc.training import train as train
    from skilloc.units import Units as Units

_HOMES = {
    "skilloc": ("locality", "losses", "plots", "store"),
    "skilloc.ablation": ("ablation_effects", "mask_effects"),
    "skilloc.attribution": ("attribution_effects", "integrated_gradients_effects"),
    "skilloc.calibration": ("Calibration", "calibrate"),
    "skilloc.circuits.edges": ("edge_effects",),
    "skilloc.circuits.faithfulness": ("faithfulness",),
    "skilloc.circuits.overlap": ("consensus",),
    "skilloc.circuits.patching": ("attribution_circuit",),
    "skilloc.circuits.trace": ("Tracing", "trace_circuit"),
    "skilloc.effects": ("Effects",),
    "skilloc.experiment": ("Experiment",),
    "skilloc.intervene": ("Reference", "hold", "mean_reference", "resample_reference", "zero_reference"),
    "skilloc.lasso": ("LocalizeConfig", "group_norms", "localize"),
    "skilloc.positions": ("PositionEffects", "position_effects"),
    "skilloc.losses": (
        "custom",
        "Loss",
    ),
    "skilloc.masks": ("Mask", "drop_top", "matched_random", "sample", "top", "top_of_any"),
    "skilloc.models.language": ("encoder", "open_model", "separator"),
    "skilloc.models.mlp": ("MLP", "open_mlp", "save_mlp"),
    "skilloc.models.described": ("At", "describe"),
    "skilloc.models.makers": ("save_model", "units_of"),
    "skilloc.report": ("circuit_page", "report_page", "top_examples"),
    "skilloc.relearning": ("Grid", "Relearning", "relearn_controls", "relearn_probe", "verdicts"),
    "skilloc.pruning": (
        "Curve",
        "Recovery",
        "effects_again",
        "keep",
        "prune",
        "pruning_curve",
        "recover",
        "remaining",
    ),
    "skilloc.removal": ("Removal", "pair_interactions", "removal_effects"),
    "skilloc.study.draws": ("subtasks_of",),
    "skilloc.study.measure": ("measure",),
    "skilloc.study.settings": ("Settings",),
    "skilloc.tasks": ("IGNORE", "Examples", "Subtask"),
    "skilloc.tasks.parity": ("parity_stream", "parity_subtasks"),
    "skilloc.tasks.stream": ("stream",),
    "skilloc.tasks.text": ("documents", "text_subtask"),
    "skilloc.tasks.world": ("open_world", "save_world"),
    "skilloc.training": ("History", "TrainConfig", "train"),
    "skilloc.units": ("Units",),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        return import_module("importlib.metadata").version("skilloc")
    if name not in _HOME:
        raise AttributeError(f'skilloc has no "{name}"; it has {", ".join(__all__)}')
    home = _HOME[name]
    found = import_module(f"skilloc.{name}") if home == "skilloc" else getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return __all__
