"""Passes that were written for torch, in pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse as TorchExportPass
from torch.fx import GraphModule
from torch.fx.passes.dialect.common.cse_pass import CSEPass
from torch.fx.passes.infra.pass_base import PassBase
from torch.fx.passes.infra.pass_base import PassResult as TorchPassResult

from hopyard.errors import OptionError, PassError, PluginError
from hopyard.passes import FunctionalPass, InPlacePass, adapted
from hopyard.pipeline import origin_of
from hopyard.program import Program
from hopyard.session import Session
from hopyard.verify import verify, walk_graphs
from hopyard_hookspecs import Pass, hookimpl

aten = torch.ops.aten
X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).relu() + self.linear(x).relu()
        return torch.cond(y.sum() > 0, lambda z: z.sin() * 2.0, lambda z: z.sin(), (y,))


@pytest.fixture(scope="module")
def program() -> Program:
    torch.manual_seed(0)
    with torch.no_grad():
        return Session(discover=False).capture(Model(), (X,))


def session_with(**passes: Any) -> Session:
    class Adapted:
        @hookimpl
        def hopyard_register_passes(self) -> list[Pass]:
            return [Pass(name.replace("_", "-"), each) for name, each in passes.items()]

    return Session(plugins=[Adapted()], discover=False)


def count(program: Program, target: object) -> int:
    return sum(
        len(body.graph.find_nodes(op="call_function", target=target))
        for _, body in walk_graphs(program.graph_module)
    )


class HandMade(PassBase):
    """Surgery as production passes do it: metadata of another node, recompiled by nobody."""

    def __init__(self, times: int = 1, exact: bool = False, table: Any = None) -> None:
        super().__init__()
        self.times = times
        self.exact = exact
        self.table = table

    def call(self, graph_module: GraphModule) -> TorchPassResult:
        for relu in graph_module.graph.find_nodes(op="call_function", target=aten.relu.default):
            for _ in range(self.times):
                with graph_module.graph.inserting_before(relu):
                    doubled = graph_module.graph.call_function(
                        aten.cat.default, ([relu.args[0], relu.args[0]],)
                    )
                    halved = graph_module.graph.call_function(aten.slice.Tensor, (doubled, 0, 0, 3))
                doubled.meta = relu.meta
                relu.replace_input_with(relu.args[0], halved)
        return TorchPassResult(graph_module, False)


class Checked(PassBase):
    def requires(self, graph_module: GraphModule) -> None:
        raise ValueError("not before lunch")

    def call(self, graph_module: GraphModule) -> TorchPassResult:
        return TorchPassResult(graph_module, True)


class SinToCos(TorchExportPass):
    def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
        op = aten.cos.default if op is aten.sin.default else op
        return super().call_operator(op, args, kwargs, meta)


def test_hand_made_nodes_get_the_values_that_they_compute(program: Program) -> None:
    result = session_with(hand=adapted(HandMade)).run("hand{times=2}", program)
    verify(result.program.graph_module, propagate=True)
    torch.testing.assert_close(result.program(X), program(X))
    (record,) = result.records
    assert record.modified
    assert dict(record.step.options) == {"times": 2, "exact": False}
    cats = result.program.graph.find_nodes(op="call_function", target=aten.cat.default)
    assert {tuple(cat.meta["val"].shape) for cat in cats} == {(6, 4)}
    assert all(origin_of(cat) for cat in cats)


def test_options_are_those_that_text_can_give() -> None:
    session = session_with(hand=adapted(HandMade))
    with pytest.raises(OptionError, match="int"):
        session.pipeline("hand{times=x}")
    with pytest.raises(OptionError, match="table"):
        session.pipeline("hand{table=x}")

    class Needy(PassBase):
        def __init__(self, program: Program) -> None: ...

        def call(self, graph_module: GraphModule) -> None: ...

    with pytest.raises(PluginError, match="program"):
        adapted(Needy)


def test_a_pass_base_of_torch_runs(program: Program) -> None:
    session = session_with(export=adapted(SinToCos), cse=adapted(CSEPass), given=adapted(CSEPass()))
    result = session.run("export,cse,given", program)
    assert [record.modified for record in result.records] == [True, True, False]
    assert count(result.program, aten.cos.default) == 2
    assert count(result.program, aten.addmm.default) == 1
    assert count(program, aten.addmm.default) == 2
    assert result.program.graph_module.code


def edits(graph_module: GraphModule) -> None:
    for node in graph_module.graph.find_nodes(op="call_function", target=aten.relu.default):
        node.target = aten.abs.default


def returns_graph(graph_module: GraphModule) -> GraphModule:
    edits(graph_module)
    return graph_module


def boasts(graph_module: GraphModule) -> TorchPassResult:
    return TorchPassResult(graph_module, True)


@pytest.mark.parametrize(
    ("function", "modified"), [(edits, True), (returns_graph, True), (boasts, False)]
)
def test_what_changed_is_found_out(function: Any, modified: bool, program: Program) -> None:
    result = session_with(given=adapted(function)).run("given", program)
    assert [record.modified for record in result.records] == [modified]
    assert (count(result.program, aten.abs.default) == 2) == modified


def test_what_it_raises_is_attributed(program: Program) -> None:
    session = session_with(checked=adapted(Checked), odd=adapted(lambda graph_module: 3))
    with pytest.raises(PassError, match="not before lunch") as caught:
        session.run("checked", program)
    assert caught.value.stage == "checked"
    with pytest.raises(PassError, match="returned a int"):
        session.run("odd", program)


def test_executorch_passes_run_unmodified(program: Program) -> None:
    pytest.importorskip("executorch.exir", exc_type=ImportError, reason="executorch is optional")
    from executorch.exir.pass_base import ExportPass
    from executorch.exir.passes import NormalizeTransposePass, ScalarToTensorPass

    class CosForSin(ExportPass):
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            op = aten.cos.default if op is aten.sin.default else op
            return super().call_operator(op, args, kwargs, meta)

    class Fold(ExportPass):
        def call(self, graph_module: GraphModule) -> TorchPassResult:
            edits(graph_module)
            return super().call(graph_module)

    session = session_with(
        cos=adapted(CosForSin),
        fold=adapted(Fold),
        normalize=adapted(NormalizeTransposePass),
        scalars=adapted(ScalarToTensorPass),
    )
    result = session.run("normalize,cos,fold,scalars", program)
    assert count(result.program, aten.cos.default) == 2
    assert count(result.program, aten.abs.default) == 2
    expected = session.run("cos", program).program
    # torch's cond does not differentiate branches that hold constants, as the last pass makes them.
    with torch.no_grad():
        found = session.run("normalize,cos,scalars", program).program(X)
        torch.testing.assert_close(found, expected(X))
    verify(result.program.graph_module, propagate=True)


def test_bases_edit_regions_and_say_what_changed(program: Program) -> None:
    class EditSin(InPlacePass):
        def edit(self, graph_module: GraphModule) -> bool:
            found = graph_module.graph.find_nodes(op="call_function", target=aten.sin.default)
            for node in found:
                node.target = aten.cos.default
            return bool(found)

    class Rebuild(FunctionalPass):
        def transform(self, graph_module: GraphModule) -> GraphModule:
            import copy

            made = copy.deepcopy(graph_module)
            edits(made)
            return made

    session = session_with(edit=EditSin(), rebuild=Rebuild())
    result = session.run("edit,edit,rebuild,rebuild", program)
    assert [record.modified for record in result.records] == [True, False, True, False]
    assert count(result.program, aten.cos.default) == 2
    with torch.no_grad():
        assert "cos" in result.program.graph_module.true_graph_0.code
