"""What a node cannot hold is refused with the operator, its distribution and what to do."""

from __future__ import annotations

import enum
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.errors import ArtifactError, UnsupportedError
from hopyard.hops import Operator, bind
from hopyard_hookspecs import hookimpl

X = torch.ones(3)
TRACERS = {"ours": hopyard.make_fx, "torch": torch_make_fx}
tracers = pytest.mark.parametrize("make", TRACERS.values(), ids=TRACERS)


class Opaque:
    """Nothing that a graph knows."""


class Color(enum.Enum):
    RED = 1


@tracers
@pytest.mark.parametrize(
    ("config", "what"),
    [(Opaque(), "a Opaque as the configuration 'how'"), (X, "a tensor as the configuration 'how'")],
)
def test_configuration(make: Any, config: Any, what: str, define: Any) -> None:
    for definition in (define(), define(lambda x, how: x * 2, kind="operator")):
        operator = bind(definition)
        given = (torch.sin,) if definition.kind == "region" else ()
        with pytest.raises(UnsupportedError, match=what) as raised:
            make(lambda x: operator(*given, x, how=config))(X)  # noqa: B023
        assert raised.value.plugin is not None
        assert raised.value.location.file == __file__


@tracers
def test_an_opaque_operand(make: Any, define: Any) -> None:
    operator = bind(define(lambda opaque, x: x * 2, kind="operator"))
    with pytest.raises(UnsupportedError, match="a Opaque as operand 0") as raised:
        make(partial(operator, Opaque()))(X)
    assert "torch.nn.Module" in raised.value.hint


@tracers
def test_a_module_is_an_attribute_of_the_graph(make: Any, define: Any) -> None:
    operator = bind(define(lambda module, x: module(x), kind="operator"))
    module = nn.ReLU()
    graph_module = make(partial(operator, module))(X)
    (call,) = graph_module.graph.find_nodes(op="call_function", target=operator)
    assert getattr(graph_module, call.args[0].target) is module


def test_a_module_that_an_exported_program_cannot_hold(define: Any) -> None:
    operator = bind(define(lambda module, x: module(x), kind="operator"))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden = [nn.ReLU()]

        def forward(self, x: Tensor) -> Tensor:
            return operator(self.hidden[0], x)

    with pytest.raises(UnsupportedError, match=r"a ReLU as operand 0.*torch\.export"):
        torch.export.export(Model(), (X,), strict=False)


@pytest.mark.parametrize("how", [[1, "a"], {1: 2}, Color.RED, range(3), [None, 1]])
def test_configuration_that_no_file_holds(how: Any, region: Operator, tmp_path: Path) -> None:
    class Offering:
        @hookimpl
        def hopyard_register_hops(self) -> Any:
            yield region.definition

    session = hopyard.Session(discover=False, plugins=[Offering()])
    program = session.capture(lambda x: region(torch.sin, x, how=how), (X,))
    torch.testing.assert_close(program(X), 2 * X.sin())
    with pytest.raises(ArtifactError, match="is called with how=") as raised:
        program.save(tmp_path / "program.pt2")
    assert region.name() in str(raised.value)
    assert "lists of one type" in raised.value.hint
