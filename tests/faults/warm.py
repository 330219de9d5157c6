"""What the server of forked children imports once, so that none of them has to."""

import importlib
import pkgutil

import matplotlib.backends.backend_agg
import matplotlib.backends.backend_pdf
import matplotlib.backends.backend_svg
import pandas
import torch
import transformers.models.llama.modeling_llama

import skilloc
from skilloc.cli import COMMANDS

torch.set_num_threads(1)
for name in COMMANDS:
    importlib.import_module(f"skilloc.cli.{name}")
for found in pkgutil.walk_packages(skilloc.__path__, "skilloc."):
    if not found.name.endswith("__main__"):
        importlib.import_module(found.name)
__all__ = ["matplotlib", "pandas", "transformers"]
