"""Read out: what an affine map gets out of a layer, with nothing else trained.

    logits = h_d A^T + a,    A and a lower the mean cross-entropy + RIDGE / 2 * |A|^2 on the attacked examples

for the activations h_d of hidden layer d, each divided by its spread. A head that is small, turned around or
permuted says nothing about what the layers below it know.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skilloc.models.makers import face_of
from skilloc.models.mlp_face import headed
from skilloc.relearning.starts import SMALL, Context, Start, pre_activations

RIDGE = 1e-3
"""Of the affine map."""

ROUNDS = 50
"""Of its optimiser, at most."""


def read_out(depth: int) -> Start:
    """Return the way to start that puts an affine map after some hidden layer, counted from 1, in place of the rest.

    For chains of linear maps and targets of one class each; of other models, the attack trains all maps.
    """

    def start(model: nn.Module, context: Context) -> nn.Module | None:
        chain = face_of(model).chain
        targets = None if context.loss.targets is None else context.loss.targets(context.attacked)
        if chain is None or targets is None or targets.ndim != 1 or depth >= len(chain.linears):
            return None
        hidden = chain.activation(pre_activations(chain, context.attacked.first)[depth - 1])

        def mean(logits: Tensor) -> Tensor:
            return context.loss(logits, context.attacked).mean().float()

        weight, bias = affine(hidden, mean, len(chain.linears[-1].bias))
        return headed(model, depth, weight, bias)

    return start


def affine(
    hidden: Float[Tensor, "example d_in"], loss_of: Callable[[Tensor], Tensor], outputs: int
) -> tuple[Float[Tensor, "d_out d_in"], Float[Tensor, " d_out"]]:
    """Return the affine map that reads from activations what lowers a loss of logits; see the module."""
    hidden = hidden.detach()
    centre, spread = hidden.mean(dim=0), hidden.std(dim=0)
    scale = torch.where(spread > SMALL * spread.max(), 1 / spread, 0.0).nan_to_num(0.0, 0.0, 0.0)
    even = (hidden - centre) * scale
    weight = torch.zeros(outputs, hidden.shape[1], requires_grad=True)
    bias = torch.zeros(outputs, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=ROUNDS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = loss_of(even @ weight.T + bias) + RIDGE / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        found = weight * scale
        return found, bias - found @ centre
