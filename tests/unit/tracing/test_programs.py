"""Programs that are easy to capture wrongly: ours are the graphs that torch's tracer makes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6), torch.randn(4, 6)


def adds_and_scales_in_place(x: Tensor, y: Tensor) -> Tensor:
    total = x + 1
    total.add_(y)
    total.mul_(2)
    return total * y


def transposes_in_place(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    total = x + 1
    doubled = total * 2
    total.t_()
    total.unsqueeze_(0)
    return total.sum(0), doubled


def writes_through_views(x: Tensor, y: Tensor) -> Tensor:
    copy = x.clone()
    row = copy[1]
    row.zero_()
    copy.view(-1)[2:5].fill_(3)
    return copy + y


def makes_constants(x: Tensor, y: Tensor) -> Tensor:
    return x * torch.tensor(2.0) + torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def reads_a_constant(x: Tensor, y: Tensor) -> Tensor:
    count = torch.tensor(3)
    count.add_(1)
    return x * count.item()


def branches_on_a_constant(x: Tensor, y: Tensor) -> Tensor:
    if torch.tensor(1.0) > 0:
        return x + y
    return x


def calls_factories(x: Tensor, y: Tensor) -> Tensor:
    grown = x + torch.zeros(4, 6) + torch.ones_like(y) + torch.arange(6).float()
    return grown + x.new_ones(6) + torch.full((6,), 2.0)


def draws_random_numbers(x: Tensor, y: Tensor) -> Tensor:
    noisy = torch.dropout(x, 0.5, True) + torch.rand_like(y) + torch.randn(6)
    noisy.uniform_(0, 1)
    return noisy + torch.bernoulli(torch.full((6,), 0.5)) + torch.randperm(6)


def unpacks_many_outputs(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    left, right = x.split(3, 1)
    rows = torch.unbind(y)
    return left + right, rows[0] * 2, torch.topk(x, 2)


def differentiates_twice(x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    loss = (leaf * y).tanh().sum()
    (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
    return torch.autograd.grad(gradient.sum(), leaf)[0]


def differentiates_a_written_view(x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    copy = leaf * 1
    row = copy[0]
    row.mul_(y[0])
    return torch.autograd.grad(copy.sum(), leaf)[0]


def multiplies_in_inference_mode(x: Tensor, y: Tensor) -> Tensor:
    with torch.inference_mode():
        return functional.linear(x, y).reshape(-1) + torch.matmul(x, y.t()).reshape(-1)


def mixes_types(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return x + 1, x.long() + 1, x.long() + 1.0, x.double() + y, x * True


def writes_to_out(x: Tensor, y: Tensor) -> Tensor:
    out = torch.empty(4, 6)
    torch.add(x, y, out=out)
    torch.sin(out, out=out)
    return out


def loops_in_the_kernel(x: Tensor, y: Tensor) -> Any:
    sums = torch._foreach_add([x, y], 1.0)
    torch._foreach_mul_(sums, 2.0)
    return sums


def conjugates(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    number = torch.complex(x, y)
    return number.conj() * 2, number.conj().imag + 1


def replaces_data(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    total = x + 1
    doubled = total * 2
    total.data = torch.zeros(2, 2)
    return total + 1, doubled


def writes_by_index(x: Tensor, y: Tensor) -> Tensor:
    table = torch.zeros(4, 6)
    table[0] = x[0]
    table[:, 1] = 3.0
    table[x[:, 0].long() % 4] = 1
    return table


def resizes(x: Tensor, y: Tensor) -> Tensor:
    total = x + 1
    total.resize_(2, 3)
    return total * 2


def computes_with_sizes(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    count = x.shape[0] * y.shape[1] + 1
    return torch.zeros(count) + count, x.view(-1, 1)


def branches_on_a_size(x: Tensor, y: Tensor) -> Tensor:
    return x.reshape(x.shape[0] * 2, -1) if x.shape[0] > 2 else y


def changes_the_default_type(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    before = torch.ones(3)
    torch.set_default_dtype(torch.float64)
    try:
        during = torch.ones(3) + torch.tensor(0.5)
    finally:
        torch.set_default_dtype(torch.float32)
    return before, during, torch.ones(3)


def casts_automatically(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return torch.mm(x, y.t()), torch.mm(x, y.t())


def returns_aliases_of_inputs(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    return x, x.view(-1), x.detach(), y


def normalises_a_batch(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean, variance = torch.zeros(6), torch.ones(6)
    return functional.batch_norm(x, mean, variance, training=True), mean, variance


def attends(x: Tensor, y: Tensor) -> Tensor:
    query = x.view(1, 2, 2, 6)
    return functional.scaled_dot_product_attention(query, query, query)


def uses_one_value_twice(x: Tensor, y: Tensor) -> Tensor:
    return x + x * x


def leaves_values_unused(x: Tensor, y: Tensor) -> Tensor:
    x.sin()
    torch.zeros(3)
    return y.cos()


def returns_numbers_and_text(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    return x + 1, 7, 2.5, "word", None, True, x.shape[0]


def returns_a_dictionary(x: Tensor, y: Tensor) -> dict[str, Any]:
    return {"sum": x + y, "nested": [x - y, {"product": x * y}], "count": 3}


def returns_nothing(x: Tensor, y: Tensor) -> None:
    x.add_(y)


def returns_an_input_twice(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x, x


def changes_strides(x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    picture = x.view(1, 2, 3, 4).to(memory_format=torch.channels_last)
    return picture + 1, x.t().contiguous(), x.as_strided((2, 2), (1, 2), 3), x.expand(2, 4, 6)


def compares_shapes_only(x: Tensor, y: Tensor) -> Tensor:
    return x + y if x.shape == y.shape and x.stride(0) == 6 and x.numel() == 24 else x


def selects(x: Tensor, y: Tensor) -> Tensor:
    return torch.where(x > 0, x, y).masked_fill(y < 0, 1.5).clamp(min=0)


def sorts(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    values, order = x.sort(dim=1)
    return values, y.gather(1, order), torch.max(x, 1), x.argmax()


def embeds(x: Tensor, y: Tensor) -> Tensor:
    return functional.embedding(torch.tensor([[0, 1], [2, 3]]), y)


def convolves(x: Tensor, y: Tensor) -> Tensor:
    return functional.conv1d(x.view(1, 4, 6), y.view(3, 4, 2), padding=1)


def differentiates_a_loss(x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    loss = functional.cross_entropy(functional.layer_norm(leaf, (6,)), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert leaf.grad is not None
    return leaf.grad + y


def skips_gradients(x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    with torch.no_grad():
        frozen = leaf * 2
    return torch.autograd.grad((leaf * frozen).sum(), leaf)[0]


def recomputes(x: Tensor, y: Tensor) -> Tensor:
    leaf = x.detach().requires_grad_()
    hidden = torch.utils.checkpoint.checkpoint(
        lambda value: torch.dropout(value.sin(), 0.5, True).exp(), leaf, use_reentrant=False
    )
    return torch.autograd.grad(hidden.sum(), leaf)[0]


def copies_to_another_type_and_back(x: Tensor, y: Tensor) -> Tensor:
    return x.half().to(torch.float64).to(y).type_as(x)


def gives_scalars_as_tensors(x: Tensor, y: Tensor) -> Tensor:
    return torch.add(x, torch.scalar_tensor(2.0), alpha=2) + torch.as_tensor(1.0)


PROGRAMS = [
    value
    for value in list(globals().values())
    if callable(value)
    and getattr(value, "__module__", None) == __name__
    and value.__code__.co_varnames[:2] == ("x", "y")
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_the_graph_is_torchs(program: Callable[..., Any], as_torch: Any) -> None:
    graph_module = as_torch(program, fresh=pair)
    graph_module.graph.lint()
