"""Tensors of subclasses and layouts, and those that nobody can make fake: as on torch's base."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse as TorchPass
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedFakeTensorException
from torch.fx import Graph, GraphModule
from torch.testing._internal.two_tensor import TwoTensor

from hopyard_export_pass import ExportPass, ReplayError

aten = torch.ops.aten
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*quantized tensor creation functions:UserWarning"),
    pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning"),
]


class Plain(Tensor):
    """A subclass that changes nothing."""


class Wrapper(Tensor):
    """A subclass around another tensor that torch cannot take apart."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        made: Wrapper = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        plain = [each.inner if isinstance(each, Wrapper) else each for each in args]
        return Wrapper(func(*plain, **(kwargs or {})))


def quantized() -> Tensor:
    return torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8)


def view_of_sparse() -> Tensor:
    """A tensor that torch has no fake tensor for."""
    return torch.eye(3).to_sparse().transpose(0, 1)


TENSORS: dict[str, Callable[[], Tensor]] = {
    "plain": lambda: torch.ones(2, 3).as_subclass(Plain),
    "parameter": lambda: nn.Parameter(torch.ones(2, 3).as_subclass(Plain), requires_grad=False),
    "wrapper": lambda: Wrapper(torch.ones(2, 3)),
    "two": lambda: TwoTensor(torch.ones(2, 3), torch.zeros(2, 3)),
    "sparse": lambda: torch.eye(3).to_sparse(),
    "view of sparse": view_of_sparse,
    "mkldnn": lambda: torch.ones(2, 3).to_mkldnn(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
}
WAYS = ("input", "attribute, real inputs", "attribute, fake inputs")


def graph(tensor: Tensor, way: str, target: Any = aten.clone.default) -> GraphModule:
    """Return a graph that calls an operator with a tensor that it is given, or reads."""
    made, root = Graph(), nn.Module()
    other = made.placeholder("other")
    if way == "input":
        read = made.placeholder("tensor")
    else:
        root.tensor = tensor
        read = made.get_attr("tensor")
    made.output((made.call_function(target, (read,)), other))
    result = GraphModule(root, made)
    if way == "attribute, fake inputs":
        other.meta["val"] = FakeTensorMode().from_tensor(torch.ones(2))
    else:
        result.meta["args"] = [torch.ones(2), *([tensor] if way == "input" else [])]
    return result


def on_torch_s_base(graph_module: GraphModule) -> GraphModule | Exception:
    """Return what torch's base makes of a graph, or how it refuses."""
    try:
        with redirect_stdout(io.StringIO()):
            result = TorchPass()(graph_module)
    except Exception as refusal:  # noqa: BLE001 - whatever it is, ours is to refuse with the same
        return refusal
    assert result is not None
    return result.graph_module


def described(made: GraphModule) -> list[Any]:
    """What metadata says of every node. We keep the names of attributes, theirs does not."""

    def told(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        strides = value.stride() if value.layout == torch.strided else None
        return type(value), value.dtype, value.shape, strides, value.layout, value.requires_grad

    return [
        (
            node.op,
            node.op == "get_attr" or node.target,
            told(node.meta.get("val")),
            node.meta.get("tensor_meta"),
        )
        for node in made.graph.nodes
        # Theirs describes the output as well.
        if node.op != "output"
    ]


@pytest.mark.parametrize("target", [aten.clone.default, aten.neg.default])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TENSORS)
def test_as_on_torch_s_base(name: str, way: str, target: Any) -> None:
    tensor = TENSORS[name]()
    theirs = on_torch_s_base(graph(tensor, way, target))
    if isinstance(theirs, Exception):
        with pytest.raises(ReplayError) as caught:
            ExportPass()(graph(tensor, way, target))
        assert type(caught.value.__cause__) is type(theirs)
        return
    ours = ExportPass()(graph(tensor, way, target))
    assert described(ours.graph_module) == described(theirs)
    again = ExportPass()(ours.graph_module)
    assert described(again.graph_module) == described(ours.graph_module)


@pytest.mark.parametrize("way", ["input", "attribute, real inputs"])
def test_what_nobody_can_make_fake_is_described_by_its_layout_alone(way: str) -> None:
    tensor = view_of_sparse()
    with pytest.raises(UnsupportedFakeTensorException):
        FakeTensorMode().from_tensor(tensor)
    seen: list[Any] = []

    class Seeing(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            seen.append(args[0])
            return super().call_operator(op, args, kwargs, meta)

    made = Seeing()(graph(tensor, way)).graph_module
    node = next(node for node in made.graph.nodes if node.target == "tensor")
    if way == "input":
        assert seen[0].data is tensor
    else:
        assert seen[0] is tensor
        assert node.meta["val"] is None
        assert (node.meta["tensor_meta"].shape, node.meta["tensor_meta"].dtype) == (
            (3, 3),
            torch.float32,
        )
    result = made(torch.ones(2), *([tensor] if way == "input" else []))
    torch.testing.assert_close(result[0].to_dense(), torch.eye(3))


@pytest.mark.parametrize("target", [aten.clone.default, aten.dequantize.self])
@pytest.mark.parametrize("way", ["input", "attribute, real inputs"])
def test_quantized_tensors_are_described_by_what_they_stand_for(way: str, target: Any) -> None:
    made = ExportPass()(graph(quantized(), way, target)).graph_module
    described_as = [node.meta["val"] for node in made.graph.nodes if node.op != "output"][1:]
    assert [(each.dtype, tuple(each.shape)) for each in described_as] == [
        (torch.float32, (2, 3))
    ] * 2
