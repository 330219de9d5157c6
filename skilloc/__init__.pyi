"""What `skilloc` gives, for type checkers; at run time its names are imported when they are first used."""

from skilloc import circuits as circuits
from skilloc import locality as locality
from skilloc import masks as masks
from skilloc import plots as plots
from skilloc import pruning as pruning
from skilloc import relearning as relearning
from skilloc import report as report
from skilloc import store as store
from skilloc import tasks as tasks
from skilloc.ablation import ablation_effects as ablation_effects
from skilloc.ablation import mask_effects as mask_effects
from skilloc.ablation.removal import removal_effects as removal_effects
from skilloc.attribution import attribution_effects as attribution_effects
from skilloc.attribution.calibration import calibrate as calibrate
from skilloc.circuits.comparison import compare as compare
from skilloc.circuits.trace import trace_circuit as trace_circuit
from skilloc.effects import Effects as Effects
from skilloc.experiment import Experiment as Experiment
from skilloc.experiment import hold as hold
from skilloc.lasso import LocalizeConfig as LocalizeConfig
from skilloc.lasso import localize as localize
from skilloc.masks import Mask as Mask
from skilloc.models.at import At as At
from skilloc.models.described import describe as describe
from skilloc.models.language import open_model as open_model
from skilloc.models.makers import save_model as save_model
from skilloc.models.makers import units_of as units_of
from skilloc.models.mlp import MLP as MLP
from skilloc.pruning import prune as prune
from skilloc.relearning import relearn_probe as relearn_probe
from skilloc.study.draws import subtasks_of as subtasks_of
from skilloc.tasks import Examples as Examples
from skilloc.tasks import Subtask as Subtask
from skilloc.tasks import losses as losses
from skilloc.tasks.asked import Asked as Asked
from skilloc.tasks.parity import parity_subtasks as parity_subtasks
from skilloc.tasks.prompts import choices as choices
from skilloc.tasks.prompts import prompts as prompts
from skilloc.training import TrainConfig as TrainConfig
from skilloc.training import train as train

__version__: str
