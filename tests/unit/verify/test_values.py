"""Recorded metadata compared with what the operators compute."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.export import Dim
from torch.fx import GraphModule, Node

from hopyard import make_fx
from hopyard._graph_copy import copy_graph_module
from hopyard._torch.fake import FakeTensorMode
from hopyard.errors import VerificationError
from hopyard.hops import bind
from hopyard.verify import verify
from hopyard_hookspecs import Hop

aten = torch.ops.aten
X = torch.linspace(-1, 1, 12).reshape(3, 4)


def summed(body: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    return body(*operands).sum(0)


def opaque(*operands: Tensor) -> Tensor:
    raise RuntimeError("this needs data")


SUMMED = bind(Hop("values_tests__summed", eager=summed))
OPAQUE = bind(Hop("values_tests__opaque", eager=opaque, kind="operator"))


def traced(function: Callable[..., object], *args: Tensor) -> GraphModule:
    return make_fx(function, tracing_mode="fake")(*args)


def node_of(graph_module: GraphModule, name: str) -> Node:
    return next(node for node in graph_module.graph.nodes if node.name == name)


def refuse(graph_module: GraphModule, name: str) -> str:
    with pytest.raises(VerificationError) as caught:
        verify(graph_module, propagate=True)
    assert repr(name) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda val: val.new_empty((4, 3)), "[4, 3]"),
        (lambda val: val.new_empty((3, 4, 1)), "[3, 4, 1]"),
        (lambda val: val.to(torch.float64), "float64"),
        (lambda val: val.t().contiguous().t(), "(1, 3)"),
        (lambda val: torch.empty(3, 4, device="meta"), "meta"),
        (lambda val: 3, "3"),
    ],
)
def test_the_first_node_that_says_something_wrong_is_named(
    spoil: Callable[[Tensor], object], said: str
) -> None:
    graph_module = traced(lambda x: torch.relu(x).sin(), X)
    relu = node_of(graph_module, "relu")
    value = relu.meta["val"]
    with value.fake_mode:
        relu.meta["val"] = spoil(value)
    assert said in refuse(graph_module, "relu")
    verify(graph_module)


def test_strides_of_one_element_do_not_matter() -> None:
    graph_module = traced(lambda x: torch.relu(x), X[:1])
    relu = node_of(graph_module, "relu")
    with relu.meta["val"].fake_mode:
        relu.meta["val"] = torch.empty_strided((1, 4), (77, 1))
    verify(graph_module, propagate=True)


def test_one_of_several_results_may_be_wrong() -> None:
    graph_module = traced(lambda x: x.topk(2)[0], X)
    topk = node_of(graph_module, "topk")
    values, indices = topk.meta["val"]
    topk.meta["val"] = (values, indices.to(torch.int32))
    assert "item 1" in refuse(graph_module, "topk")
    topk.meta["val"] = (values,)
    assert "1 values" in refuse(graph_module, "topk")


def test_operands_that_do_not_fit_are_found() -> None:
    graph_module = traced(lambda x: x.t() @ x, X)
    mm = node_of(graph_module, "mm")
    mm.args = (mm.args[1], mm.args[1])
    with pytest.raises(VerificationError, match="cannot be computed") as caught:
        verify(graph_module, propagate=True)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_constant_must_be_what_it_is_said_to_be() -> None:
    weight = torch.ones(4)
    graph_module = make_fx(lambda x: x * weight, tracing_mode="real")(X)
    verify(graph_module, propagate=True)
    graph_module._tensor_constant0 = torch.ones(4, dtype=torch.float64)
    assert "float64" in refuse(graph_module, "_tensor_constant0")


def test_values_of_two_fake_modes_do_not_mix() -> None:
    graph_module = traced(lambda x: torch.relu(x).sin(), X)
    with FakeTensorMode():
        node_of(graph_module, "relu").meta["val"] = torch.empty(3, 4)
    assert "another fake mode" in refuse(graph_module, "relu")


def test_verification_changes_nothing() -> None:
    def writes(x: Tensor) -> Tensor:
        y = x.clone()
        y.t_()
        y.add_(1)
        y.unsqueeze_(0)
        y.resize_(2, 2)
        y.set_(x[:1].clone())
        return y

    graph_module = traced(writes, X)
    values = [node.meta.get("val") for node in graph_module.graph.nodes]
    shapes = [tuple(value.shape) for value in values if value is not None]
    verify(graph_module, propagate=True)
    after = [node.meta.get("val") for node in graph_module.graph.nodes]
    assert all(one is other for one, other in zip(values, after, strict=True))
    assert shapes == [tuple(value.shape) for value in after if value is not None]


def test_a_region_and_its_caller_are_checked() -> None:
    graph_module = traced(lambda x: SUMMED(lambda y: y.sin() * 2, x), X)
    verify(graph_module, propagate=True)
    call = node_of(graph_module, "values_tests__summed")
    value = call.meta["val"]
    call.meta["val"] = value.new_empty((9,))
    refuse(graph_module, "values_tests__summed")
    call.meta["val"] = value
    body = next(child for child in graph_module.children() if isinstance(child, GraphModule))
    sin = node_of(body, "sin")
    sin.meta["val"] = sin.meta["val"].new_empty((9,))
    refuse(graph_module, "sin")


def test_what_does_not_run_on_fake_tensors_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    graph_module = traced(lambda x: torch.relu(x).sin(), X)
    relu = node_of(graph_module, "relu")
    relu.target = OPAQUE
    with caplog.at_level(logging.DEBUG, "hopyard.verify"):
        verify(graph_module, propagate=True)
    assert any("relu" in message for message in caplog.messages)


def test_what_depends_on_data_is_left_out() -> None:
    class Selects(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[x > 0].sum() + x.nonzero().sum()

    exported = torch.export.export(Selects(), (X,))
    verify(exported.graph_module, propagate=True)


def test_symbolic_sizes_are_compared_without_guards() -> None:
    class Shaped(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.reshape(-1) + 1).reshape(x.shape[0], 2, 2).sum(-1)

    exported = torch.export.export(Shaped(), (X,), dynamic_shapes=({0: Dim("n", min=2)},))
    graph_module = exported.graph_module
    mode = next(node.meta["val"].fake_mode for node in graph_module.graph.nodes if node.name == "x")
    guards = len(mode.shape_env.guards)
    verify(graph_module, propagate=True)
    assert len(mode.shape_env.guards) == guards
    add = node_of(graph_module, "add")
    with mode:
        add.meta["val"] = torch.empty(add.meta["val"].shape[0] + 1)
    refuse(graph_module, "add")


def test_computing_symbolic_sizes_adds_no_guard() -> None:
    class Increment(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    exported = torch.export.export(Increment(), (X,), dynamic_shapes=({0: Dim("n", min=2)},))
    add = node_of(exported.graph_module, "add")
    mode = add.meta["val"].fake_mode
    add.target, add.args = aten.expand.default, (add.args[0], [3, 4])
    with mode:
        add.meta["val"] = torch.empty(3, 4)
    verify(exported.graph_module, propagate=True)
    assert mode.shape_env.guards == []
    assert not mode.shape_env.replacements


def test_only_what_is_new_is_computed() -> None:
    computed = []

    def counting(x: Tensor) -> Tensor:
        computed.append(x)
        return x.clone()

    counted = bind(Hop("values_tests__counted", eager=counting, kind="operator"))
    graph_module = traced(lambda x: counted(x).sin(), X)
    computed.clear()
    copied = copy_graph_module(graph_module)
    verify(copied, propagate=True, since=graph_module)
    assert computed == []
    verify(copied, propagate=True)
    assert len(computed) == 1
    computed.clear()
    node_of(copied, "x_1").meta["val"] = node_of(copied, "x_1").meta["val"].clone()
    verify(copied, propagate=True, since=graph_module)
    assert len(computed) == 1


def test_a_changed_body_makes_its_caller_new() -> None:
    graph_module = traced(lambda x: SUMMED(lambda y: y.sin(), x), X)
    copied = copy_graph_module(graph_module)
    body = next(child for child in copied.children() if isinstance(child, GraphModule))
    sin = node_of(body, "sin")
    sin.target, sin.args = aten.sum.dim_IntList, (sin.args[0], [1])
    sin.meta["val"] = sin.meta["val"].new_empty((3,))
    body.recompile()
    with pytest.raises(VerificationError, match="values_tests__summed"):
        verify(copied, propagate=True, since=graph_module)


IMAGE = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
SQUARE = torch.eye(4) + torch.ones(4, 4) / 8
functional = torch.nn.functional
PROGRAMS: dict[str, tuple[Callable[..., object], Tensor]] = {
    "attention": (
        lambda x: functional.scaled_dot_product_attention(x, x.flip(2), x, is_causal=True),
        IMAGE,
    ),
    "batch norm": (lambda x: functional.batch_norm(x, None, None, training=True), IMAGE),
    "channels last": (lambda x: x.to(memory_format=torch.channels_last).relu() + x, IMAGE),
    "complex": (lambda x: torch.view_as_real(torch.fft.rfft(x).conj() * 2), IMAGE),
    "convolution": (lambda x: functional.conv2d(x, x[:, :, :3, :3], stride=2, padding=1), IMAGE),
    "dropout": (lambda x: functional.dropout(x, 0.5), IMAGE),
    "factories": (lambda x: torch.arange(3) + torch.rand(3) + torch.zeros_like(x).sum(), X),
    "in place": (lambda x: x.clone().mul_(2).relu_(), X),
    "indexing": (lambda x: x[[0, 2], 1:].index_add(0, torch.tensor([1]), x[:1, 1:]), X),
    "interpolation": (lambda x: functional.interpolate(x, scale_factor=2, mode="bilinear"), IMAGE),
    "linear algebra": (lambda x: (*torch.linalg.svd(x), torch.linalg.solve(x, x)), SQUARE),
    "pooling": (lambda x: functional.max_pool2d(x, 2, return_indices=True), IMAGE),
    "promotion": (lambda x: (x > 0) * 2 + x.to(torch.float16) + x.double().sum(), X),
    "sort": (lambda x: (*x.sort(), x.argsort(1), x.kthvalue(2)), X),
    "splits": (lambda x: (*x.split(2), *x.unbind(1), x.chunk(2, 1)[1]), X),
    "views": (lambda x: x.as_strided((2, 2), (1, 2)).expand(3, 2, 2).permute(2, 0, 1), X),
}


@pytest.mark.parametrize("tracing_mode", ["fake", "real"])
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_what_the_tracer_says_is_what_operators_compute(name: str, tracing_mode: str) -> None:
    function, x = PROGRAMS[name]
    verify(make_fx(function, tracing_mode=tracing_mode)(x), propagate=True)
