"""What `torchrun analyses/which_units.py --scale paper` does, with a two-layer stand-in for the large model."""

import json
import sys
from dataclasses import replace

import which_units
from _frame import analyse
from _narrow import Text, Training

if __name__ == "__main__":
    model, texts, runs = sys.argv[1:]
    scale = replace(
        which_units.SCALES["quick"],
        text=Text(model, texts, length=8, scored=8, held_out=8),
        training=Training(steps=3, examples=8, looks=(1, 3)),
        sparsities=(0.5,),
        rates=(1e-3, 3e-3),
    )
    analyse(
        which_units.__file__,
        which_units.__doc__ or "",
        scales={"paper": scale},
        measure=which_units.measure,
        draw=lambda found: which_units.draw(json.loads(json.dumps(found))),
        arguments=["--scale", "paper", "--runs", runs],
    )
