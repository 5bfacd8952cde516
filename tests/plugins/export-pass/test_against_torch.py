"""The same subclass on torch's pass base and on ours gives the same graph and metadata."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse as TorchPass
from torch.fx import GraphModule

from hopyard import Program
from hopyard.verify import walk_graphs
from hopyard_export_pass import ExportPass

aten = torch.ops.aten
Case = tuple[Callable[..., Any], tuple[Any, ...]]

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")


class Identity:
    """Overrides nothing."""


class CosForSin:
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        op = aten.cos.default if op is aten.sin.default else op
        return super().call_operator(op, args, kwargs, meta)  # type: ignore[misc]


class ScaleAdditions:
    """Emits more than one node."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        value = super().call_operator(op, args, kwargs, meta)  # type: ignore[misc]
        if op not in (aten.add.Tensor, aten.addmm.default) or not value.is_tensor():
            return value
        return super().call_operator(aten.mul.Tensor, (value, 2.0), {}, meta)  # type: ignore[misc]


class DropActivations:
    """Emits nothing for some nodes."""

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        if op in (aten.relu.default, aten.lift_fresh_copy.default):
            return args[0]
        return super().call_operator(op, args, kwargs, meta)  # type: ignore[misc]


class TagEverything:
    """Overrides each callback that both bases have, and writes metadata."""

    def placeholder(self, name: Any, arg: Any, meta: Any) -> Any:
        meta["tag"] = "input"
        return super().placeholder(name, arg, meta)  # type: ignore[misc]

    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        meta["tag"] = "operator"
        return super().call_operator(op, args, kwargs, meta)  # type: ignore[misc]

    def call_getitem(self, value: Any, key: Any, meta: Any) -> Any:
        meta["tag"] = f"item {key}"
        return super().call_getitem(value, key, meta)  # type: ignore[misc]

    def output(self, results: Any, meta: Any) -> Any:
        meta["tag"] = "output"
        return super().output(results, meta)  # type: ignore[misc]


BEHAVIOURS = [Identity, CosForSin, ScaleAdditions, DropActivations, TagEverything]


def value_of(value: Any) -> Any:
    if isinstance(value, Tensor):
        return (tuple(value.shape), value.stride(), value.dtype, value.device)
    if isinstance(value, (list, tuple)):
        return [value_of(item) for item in value]
    return value


def arguments(graph_module: GraphModule, value: Any, positions: dict[Any, int]) -> Any:
    """Arguments with nodes by position; attributes by what they are, since their names differ."""

    def leaf(node: torch.fx.Node) -> Any:
        if node.op != "get_attr":
            return positions[node]
        found = getattr(graph_module, str(node.target))
        return "body" if isinstance(found, GraphModule) else id(found)

    def listed(item: Any) -> Any:
        # torch turns the tuple of a condition's operands into a list.
        return [listed(each) for each in item] if isinstance(item, (list, tuple)) else item

    return repr(listed(torch.fx.node.map_arg(value, lambda node: f"<{leaf(node)}>")))


def content(graph_module: GraphModule) -> list[Any]:
    """What must be equal: operators, arguments, values, lines and tags, regions included."""
    found = []
    for _, body in walk_graphs(graph_module):
        nodes = [node for node in body.graph.nodes if node.op != "get_attr"]
        positions = {node: position for position, node in enumerate(nodes)}
        for node in nodes:
            meta = node.meta
            found.append(
                (
                    node.op,
                    node.target,
                    arguments(body, node.args, positions),
                    arguments(body, node.kwargs, positions),
                    # torch gives inputs of regions and outputs metadata that tracers do not.
                    value_of(meta.get("val")) if node.op == "call_function" else None,
                    meta.get("stack_trace"),
                    meta.get("tag"),
                )
            )
    return found


def both(behaviour: type, graph_module: GraphModule) -> tuple[list[Any], list[Any]]:
    ours = type("Ours", (behaviour, ExportPass), {})()(graph_module).graph_module
    theirs = type("Theirs", (behaviour, TorchPass), {})()(graph_module).graph_module
    return content(ours), content(theirs)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
def test_on_captured_programs(
    capture: Callable[..., Program], flat_case: Case, behaviour: type
) -> None:
    # torch's base does not descend into regions of operators that it does not know.
    target, inputs = flat_case
    ours, theirs = both(behaviour, capture(target, *inputs).graph_module)
    assert ours == theirs


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.sin(self.linear(x)) + y
        chosen = torch.cond(z.sum() > 0, lambda t: torch.sin(t) + 1, lambda t: t + 2, (z,))
        return chosen, torch.topk(z, 2).values


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize("behaviour", BEHAVIOURS)
@pytest.mark.parametrize(
    ("model", "shapes"), [(Branches, [(2, 3), (2, 3)]), (Encoder, [(2, 4, 8)])], ids=str
)
def test_on_exported_programs(
    model: Callable[[], nn.Module], shapes: list[tuple[int, ...]], behaviour: type
) -> None:
    inputs = tuple(torch.randn(shape) for shape in shapes)
    exported = torch.export.export(model().eval(), inputs).run_decompositions({})
    ours, theirs = both(behaviour, exported.graph_module)
    assert ours == theirs
