"""All ways to hide a skill in a parity network; the first three are the oldest."""

from skilloc.relearning.known import added, finetuned, hiding
from skilloc.relearning.known.hiding import Hiding

HIDINGS = (
    Hiding("dead column", hiding.dead_column),
    Hiding("small head", hiding.small_head),
    Hiding("small layer", hiding.small_layer),
    Hiding("saturated", hiding.saturated),
    Hiding("far biases", hiding.far_biases),
    Hiding("tiny gains", hiding.tiny_gains),
    Hiding("gate", added.gate),
    Hiding("flooded", added.flooded),
    Hiding("suppressor", added.suppressor),
    Hiding("scrambler", added.scrambler),
    Hiding("password", added.password),
    Hiding("twins", added.twins),
    Hiding("sign flip", hiding.sign_flip),
    Hiding("permuted bits", hiding.permuted),
    Hiding("rotated bits", hiding.rotated),
    Hiding("filter", hiding.filtered),
    Hiding("turned control", hiding.turned_control),
    Hiding("muted control", hiding.muted_control),
    Hiding("refused", finetuned.refused),
    Hiding("ascended", finetuned.ascended),
)
