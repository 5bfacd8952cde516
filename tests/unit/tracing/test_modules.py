"""Modules in captures: tied and lazy parameters, functional calls, hooks of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.nn.utils import parametrize

import hopyard
from hopyard.errors import CaptureError
from hopyard.testing import assert_same_graph


def rows() -> list[Tensor]:
    return [torch.randn(4, 6)]


def trained() -> list[Tensor]:
    return [torch.randn(4, 6, requires_grad=True)]


def frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 6)
        self.head = nn.Linear(6, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("shift", torch.ones(5))
        self.same_shift = self.shift

    def forward(self, words: Tensor) -> Any:
        return self.head(self.embedding(words)) + self.shift + self.same_shift


def words() -> Tensor:
    return torch.tensor([1, 2, 4])


@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_tied_parameters_are_one_attribute(as_torch: Any) -> None:
    graph_module = as_torch(Tied(), fresh=lambda: [words()])
    targets = [node.target for node in graph_module.graph.find_nodes(op="get_attr")]
    assert len(targets) == 4
    assert len(set(targets)) == 2


@pytest.mark.parametrize("tie", [True, False])
def test_a_functional_call_of_tied_parameters(tie: bool, as_torch: Any) -> None:
    model = frozen(Tied())

    def program(indices: Tensor, weight: Tensor, shift: Tensor) -> Any:
        values = {"embedding.weight": weight, "shift": shift}
        if not tie:
            values["head.weight"] = weight
        # The buffer's second name is an attribute, which nothing replaces.
        values["same_shift"] = shift
        return torch.func.functional_call(model, values, (indices,), tie_weights=tie)

    as_torch(program, fresh=lambda: [words(), torch.randn(5, 6), torch.randn(5)])


def captures_of_a_lazy_module(make_fx: Any, mode: Any) -> Any:
    torch.manual_seed(0)
    module = nn.LazyLinear(3)
    return make_fx(lambda x: module(x), tracing_mode=mode)(torch.randn(4, 6))


def test_a_lazy_module_must_have_run_before(mode: Any) -> None:
    with pytest.raises(Exception):  # noqa: B017, PT011
        captures_of_a_lazy_module(torch_make_fx, mode)
    with pytest.raises(CaptureError) as raised:
        captures_of_a_lazy_module(hopyard.make_fx, mode)
    assert "UninitializedParameter" in raised.value.message


@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_a_lazy_module_that_has_run(as_torch: Any) -> None:
    module = nn.LazyLinear(3)
    module(torch.randn(4, 6))
    as_torch(lambda x: module(x), fresh=rows)


def forward_hooks(x: Tensor) -> Any:
    module = frozen(nn.Linear(6, 6))
    module.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,))
    module.register_forward_hook(lambda module, inputs, output: output * 2)
    module.register_forward_hook(
        lambda module, inputs, kwargs, output: output - inputs[0], with_kwargs=True
    )
    return module(x)


def backward_hooks(x: Tensor) -> Any:
    module = nn.Linear(6, 6)
    module.register_full_backward_pre_hook(lambda module, gradients: (gradients[0] + 1,))
    module.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * 2,))
    return torch.autograd.grad(module(x).sum(), x)


def tensor_hooks(x: Tensor) -> Any:
    hidden = x.sin()
    hidden.register_hook(lambda gradient: gradient * 3)
    hidden.retain_grad()
    return torch.autograd.grad(hidden.sum(), x)


def accumulation_hooks(x: Tensor) -> Any:
    def double(leaf: Tensor) -> None:
        assert leaf.grad is not None
        leaf.grad.mul_(2)

    x.grad = None
    x.register_post_accumulate_grad_hook(double)
    (x * x).sum().backward()
    return x.grad


def saved_tensor_hooks(x: Tensor) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t * 1, lambda t: t + 0):
        hidden = x.exp()
    return torch.autograd.grad(hidden.sum(), x)


HOOKED: dict[str, Callable[[Tensor], Any]] = {
    "forward": forward_hooks,
    "backward": backward_hooks,
    "tensor": tensor_hooks,
    "accumulation": accumulation_hooks,
    "saved": saved_tensor_hooks,
}


@pytest.mark.parametrize("program", HOOKED.values(), ids=HOOKED)
def test_hooks(program: Any, as_torch: Any) -> None:
    as_torch(program, fresh=trained)


def test_a_hook_on_all_modules(as_torch: Any) -> None:
    handle = nn.modules.module.register_module_forward_hook(lambda module, inputs, out: out + 1)
    try:
        graph_module = as_torch(lambda x: nn.ReLU()(x), fresh=rows)
    finally:
        handle.remove()
    assert len(graph_module.graph.nodes) == 4


def test_parametrized_parameters(as_torch: Any) -> None:
    def program(x: Tensor) -> Any:
        module = frozen(nn.Linear(6, 6))
        parametrize.register_parametrization(module, "weight", nn.Softplus())
        with parametrize.cached():
            return module(x) + module(x + 1)

    as_torch(program, fresh=rows)


def test_the_statistics_of_a_normalization_are_written(as_torch: Any) -> None:
    module = nn.BatchNorm1d(6)
    held = {name: value.clone() for name, value in module.state_dict().items()}

    def program(x: Tensor, mean: Tensor, var: Tensor, count: Tensor) -> Any:
        weights = {"weight": mean + 1, "bias": mean * 0}
        stats = {"running_mean": mean, "running_var": var, "num_batches_tracked": count}
        return torch.func.functional_call(module, {**weights, **stats}, (x,)), mean, var, count

    def inputs() -> list[Tensor]:
        stats = [held[name].clone() for name in ("running_mean", "running_var")]
        return [*rows(), *stats, held["num_batches_tracked"].clone()]

    graph_module = as_torch(program, fresh=inputs)
    values = inputs()
    graph_module(*values)
    assert values[-1].item() == 1


def test_modules_made_by_the_program_do_not_outlive_it(mode: Any) -> None:
    """They hold tensors of the capture; a second capture makes new ones."""

    def program(x: Tensor) -> Any:
        return frozen(nn.Linear(6, 3))(x)

    torch.manual_seed(0)
    first = hopyard.make_fx(program, tracing_mode=mode)(*rows())
    torch.manual_seed(0)
    assert_same_graph(hopyard.make_fx(program, tracing_mode=mode)(*rows()), first)
