"""The gradients of a chain of linear maps and ReLUs by hand, over the same memory at every step.

With layers p_i = h_{i-1} W_i^T + b_i and h_i = max(p_i, 0), logits z, and N scored examples,

    dz = (softmax(z) - one hot target) / N
    dp_i = dh_i where h_i > 0, and 0 elsewhere
    dW_i = dp_i^T h_{i-1},    db_i = sum of dp_i over examples,    dh_{i-1} = dp_i W_i

It is what autograd computes, product by product and, with products in bfloat16, rounding by rounding. But autograd
takes new memory for every tensor and gives it back, and more time can go into that than into the arithmetic. Here, the
activations of a block of examples stay in memory, and so in a core's cache; and only what is needed is written.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from skilloc.losses import nll_error
from skilloc.models.face import Chain, Face
from skilloc.tasks import IGNORE, Examples
from skilloc.training.settings import Products


def by_hand(face: Face, examples: Examples, targets: Tensor | None) -> bool:
    """Whether the gradients of this model on these examples can be computed by hand.

    It must be a chain of linear maps and ReLUs in float32 on the CPU, with all weights trained and no function on any
    hook; the loss must be the negative log-likelihood of targets, and every example scored.
    """
    chain, inputs = face.chain, examples.inputs
    if chain is None or chain.activation is not functional.relu or targets is None:
        return False
    parameters = face.module.parameters()
    trained = [p for p in parameters if p.requires_grad and p.dtype == torch.float32 and p.device.type == "cpu"]
    own = [p for linear in chain.linears for p in (linear.weight, linear.bias)]
    if len(trained) != len(own) or any(a is not b for a, b in zip(trained, own, strict=True)):
        return False
    # Both are None until a function is attached for the first time.
    if any(p._backward_hooks or p._post_accumulate_grad_hooks for p in own):
        return False
    if any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in face.module.modules()):
        return False
    if not isinstance(inputs, Tensor) or inputs.requires_grad or inputs.ndim != 2:
        return False
    plain = inputs.dtype == torch.float32 and inputs.device == targets.device == own[0].device
    return plain and not bool((targets == IGNORE).any())


class Gradients:
    """Computes the gradients of one network; it holds the memory for them and for the activations of a block.

    Attributes:
        chain: the network.
        rows: examples per block.
        products: type of the matrix products; their sums over blocks are in float32.
    """

    def __init__(self, chain: Chain, rows: int, *, products: Products) -> None:
        self.chain, self.rows, self.products = chain, rows, products
        self._weights, self._biases = [m.weight for m in chain.linears], [m.bias for m in chain.linears]
        kind = getattr(torch, products)
        # Products with the longer side first are faster, so those of hidden layers are on `d_in d_out`.
        shapes = [(w.shape[1], w.shape[0]) for w in self._weights[:-1]] + [tuple(self._weights[-1].shape)]
        self._sums = [torch.empty(shape) for shape in shapes]
        self._parts = [torch.empty(shape, dtype=kind) for shape in shapes]
        self._bias_sums = [torch.empty_like(b) for b in self._biases]
        self._bias_parts = [torch.empty_like(b, dtype=kind) for b in self._biases]
        self._post = [torch.empty(rows, weight.shape[1], dtype=kind) for weight in self._weights]
        # Gradients of a layer can go where the activations of the next layer were: those have been used by then.
        self._back = [
            after if after.shape == own.shape else torch.empty_like(own)
            for own, after in zip(self._post[1:-1], self._post[2:], strict=True)
        ] + [torch.empty_like(self._post[-1])]
        self._kind = kind

    @torch.no_grad()
    def __call__(self, inputs: Float[Tensor, "example d_in"], targets: Int[Tensor, "example"]) -> float:
        """Put the gradients of the mean loss into `grad` of the parameters; return that loss, in nats."""
        for total in [*self._sums, *self._bias_sums]:
            total.zero_()
        weights, biases = [w.to(self._kind) for w in self._weights], [b.to(self._kind) for b in self._biases]
        loss = torch.zeros(())
        for first in range(0, len(inputs), self.rows):
            rows = slice(first, first + self.rows)
            post = self._forward(inputs[rows], weights, biases)
            logits = torch.addmm(biases[-1][:, None], weights[-1], post[-1].T).float()
            right, error = nll_error(logits, targets[None, rows])
            loss -= right.sum()
            self._backward(error.div_(len(inputs)).to(self._kind), post, weights)
        for total, weight in zip(self._sums[:-1], self._weights[:-1], strict=True):
            weight.grad = total.T.contiguous()
        self._weights[-1].grad = self._sums[-1]
        for total, bias in zip(self._bias_sums, self._biases, strict=True):
            bias.grad = total
        return float(loss) / len(inputs)

    def _forward(
        self, inputs: Float[Tensor, "example d_in"], weights: list[Tensor], biases: list[Tensor]
    ) -> list[Float[Tensor, "example _"]]:
        """Return the inputs and the activations of all hidden layers."""
        post = [self._post[0][: len(inputs)].copy_(inputs) if self.products == "bfloat16" else inputs]
        for i, memory in enumerate(self._post[1:]):
            post.append(torch.addmm(biases[i], post[-1], weights[i].T, out=memory[: len(inputs)]).relu_())
        return post

    def _backward(
        self, error: Float[Tensor, "d_out example"], post: list[Float[Tensor, "example _"]], weights: list[Tensor]
    ) -> None:
        """Add the gradients of a block, from those with respect to its logits."""
        n = error.shape[1]
        self._add(len(post) - 1, error, post[-1], error.sum(1))
        back = torch.mm(error.T, weights[-1], out=self._back[-1][:n])
        for i in range(len(post) - 2, -1, -1):
            torch.ops.aten.threshold_backward.grad_input(back, post[i + 1], 0, grad_input=back)
            self._add(i, post[i].T, back, torch.sum(back, 0, out=self._bias_parts[i]))
            if i:
                back = torch.mm(back, weights[i], out=self._back[i - 1][:n])

    def _add(self, i: int, left: Float[Tensor, "a example"], right: Float[Tensor, "example b"], bias: Tensor) -> None:
        if self.products == "bfloat16":
            self._sums[i] += torch.mm(left, right, out=self._parts[i])
        else:
            self._sums[i].addmm_(left, right)
        self._bias_sums[i] += bias
