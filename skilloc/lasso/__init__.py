"""Group-sparse finetuning: the norms of units' weights, penalties on them, proximal steps, the localizing finetuner."""

from skilloc.lasso.finetuning import localize
from skilloc.lasso.norms import group_norms
from skilloc.lasso.penalties import Penalty, penalty
from skilloc.lasso.proximal import Lasso
from skilloc.lasso.settings import LocalizeConfig, Solver

__all__ = ["Lasso", "LocalizeConfig", "Penalty", "Solver", "group_norms", "localize", "penalty"]
