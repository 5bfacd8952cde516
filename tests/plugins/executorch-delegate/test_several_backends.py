"""Several backends by priority, whole programs, state that backends bake in, dynamic sizes."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from delegate_chips import ChipsPlugin, Constants, Waves
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import Graph, GraphModule
from torch.testing import assert_close

import hopyard_executorch_delegate._plugin as delegate_plugin
from hopyard import Program, Session
from hopyard.errors import ProgramError, UnknownNameError
from hopyard.partitioning import outline, partition
from hopyard_executorch_delegate import DelegationError, call_delegate, delegate, report
from hopyard_hookspecs import Backend, Support, hookimpl

X = torch.linspace(-1, 1, 6).reshape(2, 3)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False, plugins=[delegate_plugin, ChipsPlugin()])


def backends_of(program: Program) -> list[str]:
    return [each.backend for each in report(program).partitions]


def both_waves_and_sums(x: Tensor) -> Tensor:
    y = x.sin() * x.cos()
    z = (y + x).exp()
    return (z - y).cos() * z


class TestPriorities:
    @pytest.mark.parametrize("order", [("waves", "sums"), ("sums", "waves")])
    def test_the_first_gets_what_both_take(self, order: tuple[str, ...], session: Session) -> None:
        program = session.capture(both_waves_and_sums, (X,))
        delegated = delegate(program, session, order)
        assert_close(delegated(X), both_waves_and_sums(X))
        taken = {
            str(node.target): each.backend_id
            for each in delegated.graph_module.children()
            for node in each.original_module.graph.nodes
            if node.op == "call_function"
        }
        assert taken["aten.mul.Tensor"] == order[0]
        assert (taken["aten.sin.default"], taken["aten.add.Tensor"]) == ("waves", "sums")

    def test_every_node_that_stays_says_why_for_each_backend(self, session: Session) -> None:
        delegated = delegate(session.capture(both_waves_and_sums, (X,)), session, ("waves", "sums"))
        (left,) = report(delegated).undelegated
        assert left.target == "aten.exp.default"
        assert left.reasons == {"waves": "is unknown to waves", "sums": "is unknown to sums"}

    def test_a_pipeline_names_several(self, session: Session) -> None:
        program = session.capture(both_waves_and_sums, (X,))
        delegated = session.run("delegate{backend=[waves,sums]}", program).program
        assert set(backends_of(delegated)) == {"waves", "sums"}

    def test_what_is_too_small_for_one_goes_to_the_next(self, session: Session) -> None:
        program = session.capture(lambda x: (x.sin() + 1) * (x + 2) - x, (X,))
        delegated = delegate(program, session, ("waves", "sums"), minimum=2)
        assert backends_of(delegated) == ["sums"]

    @pytest.mark.parametrize(
        ("backends", "error", "message"),
        [
            ((), ValueError, "at least one"),
            (("waves", "waves"), ValueError, "named twice"),
            (("waves", "wavse"), UnknownNameError, "wavse"),
        ],
    )
    def test_wrong_names_are_refused(
        self, backends: Any, error: Any, message: str, session: Session
    ) -> None:
        with pytest.raises(error, match=message):
            delegate(session.capture(torch.sin, (X,)), session, backends)


@st.composite
def owned_graphs(draw: st.DrawFn) -> tuple[GraphModule, dict[str, str]]:
    graph = Graph()
    nodes = [graph.placeholder("x")]
    owners = {}
    for _ in range(draw(st.integers(1, 12))):
        operands = [nodes[draw(st.integers(0, len(nodes) - 1))] for _ in range(2)]
        node = graph.call_function(torch.ops.aten.add.Tensor, tuple(operands))
        node.meta["val"] = X
        owners[node.name] = draw(st.sampled_from("ABC-"))
        nodes.append(node)
    graph.output(tuple(nodes[-3:]))
    return GraphModule({}, graph), owners


@given(owned_graphs())
def test_partitions_of_several_backends_never_depend_on_each_other_in_a_cycle(
    case: tuple[GraphModule, dict[str, str]],
) -> None:
    graph_module, owners = case
    found = []
    for owner in "ABC":
        found += partition(
            graph_module, lambda node, owner=owner: owners[node.name] == owner, taken=found
        )
    taken = [node.name for each in found for node in each.nodes]
    assert sorted(taken) == sorted(name for name, owner in owners.items() if owner != "-")

    def call(subgraph: Any) -> Any:
        from hopyard.partitioning import Call

        return Call(lambda module, *operands: module(*operands), subgraph.graph_module)

    outlined = outline(graph_module, found, call)
    assert_close(outlined(X), graph_module(X))


class TestWhole:
    def test_one_backend_takes_everything(self, session: Session) -> None:
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
        program = session.capture(module, (X,))
        delegated = delegate(program, session, ("waves", "reference"), whole=True)
        assert backends_of(delegated) == ["reference"]
        assert report(delegated).operators.ratio == 1
        with torch.no_grad():
            assert_close(delegated(X), module(X))

    def test_an_operator_that_nobody_takes_is_named(self, session: Session) -> None:
        program = session.capture(both_waves_and_sums, (X,))
        with pytest.raises(DelegationError, match=r"'sums' does not take .*: \w+ is unknown"):
            delegate(program, session, ("waves", "sums"), whole=True)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, 3))
        self.register_buffer("offset", torch.linspace(0, 1, 3))
        self.register_buffer("count", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.count.add_(1)
        return (x * self.weight + self.offset) * self.count.exp()


class TestBakedState:
    def test_what_a_program_never_writes_is_part_of_the_bytes(self, session: Session) -> None:
        module = Scaled()
        eager = copy.deepcopy(module)
        delegated = delegate(session.capture(module, (X,)), session, ("constants",))
        baked = [name for each in delegated.graph_module.children() for name in each.lowered.baked]
        assert sorted(baked) == ["b_offset", "p_weight"]
        with torch.no_grad():
            for _ in range(2):
                assert_close(delegated(X), eager(X))

    def test_gradients_reach_it_though_no_input_wants_one(self, session: Session) -> None:
        module = Scaled()
        eager = copy.deepcopy(module)
        delegated = delegate(session.capture(module, (X,)), session, ("constants",))
        delegated(X).sum().backward()
        eager(X).sum().backward()
        assert_close(module.weight.grad, eager.weight.grad)

    def test_bytes_of_other_values_are_not_run(self, session: Session) -> None:
        module = Scaled()
        delegated = delegate(session.capture(module, (X,)), session, ("constants",))
        with torch.no_grad():
            delegated(X)
            module.weight.mul_(2)
            with pytest.raises(ProgramError, match=r"operand 1 of partition . .* not what it was"):
                delegated(X)

    def test_a_deep_copy_has_its_own(self, session: Session) -> None:
        module = Scaled()
        delegated = copy.deepcopy(delegate(session.capture(module, (X,)), session, ("constants",)))
        with torch.no_grad():
            module.weight.mul_(2)
            delegated(X)

    def test_no_placeholder_remembers_its_tensor(self, session: Session) -> None:
        delegated = delegate(session.capture(Scaled(), (X,)), session, ("constants",))
        graphs = [
            delegated.graph,
            *(m.original_module.graph for m in delegated.graph_module.children()),
        ]
        assert not any("state" in node.meta for graph in graphs for node in graph.nodes)

    def test_baking_in_what_is_not_constant_names_the_backend(self) -> None:
        class Wrong(Constants):
            def lower(self, partition: Any, options: Any) -> Any:
                from hopyard_hookspecs import Lowered

                return Lowered(partition, "constants", b"", baked=("b_count",))

        class Plugin:
            @hookimpl
            def hopyard_register_backends(self) -> Any:
                yield Backend("constants", implementation=Wrong)

        session = Session(discover=False, plugins=[delegate_plugin, Plugin()])
        with pytest.raises(DelegationError, match="baked-in operands are wrong") as caught:
            delegate(session.capture(Scaled(), (X,)), session, ("constants",))
        assert (caught.value.backend, caught.value.partition) == ("constants", 0)


class TestDynamicSizes:
    @pytest.mark.parametrize("backend", ["reference", "constants"])
    def test_a_partition_runs_at_any_size(self, backend: str, session: Session) -> None:
        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight = nn.Parameter(torch.linspace(1, 2, 12).reshape(3, 4))

            def forward(self, x: Tensor) -> Tensor:
                return (x @ self.weight + 1).reshape(-1, 2).sum(0)

        module = Model()
        shapes = {"x": {0: Dim("batch", min=2, max=16)}}
        program = session.capture(module, (X,), dynamic_shapes=shapes)
        delegated = delegate(program, session, (backend,))
        assert backend in backends_of(delegated)
        with torch.no_grad():
            for batch in (2, 5, 16):
                x = torch.randn(batch, 3)
                assert_close(delegated(x), module(x))

    def test_a_size_that_the_sizes_of_operands_contradict_is_refused(
        self, session: Session
    ) -> None:
        class Lying(Waves):
            name = "lying"

            def run(self, lowered: Any, *operands: Any) -> Any:
                return tuple(each[:-1] for each in lowered.original_module(*operands))

        class Plugin:
            @hookimpl
            def hopyard_register_backends(self) -> Any:
                yield Backend("lying", implementation=Lying)

        session = Session(discover=False, plugins=[delegate_plugin, Plugin()])
        program = session.capture(torch.sin, (X,), dynamic_shapes=({0: Dim("batch")},))
        delegated = delegate(program, session, ("lying",))
        with pytest.raises(
            ProgramError, match=r"'lying' returned .*float32\[4, 3\].* partition 0.*\[5, 3\]"
        ):
            delegated(torch.ones(5, 3))


def test_support_may_be_a_plain_pair(session: Session) -> None:
    class Plain(Waves):
        name = "plain"

        def supports(self, node: Any) -> Any:
            return str(node.target) == "aten.sin.default", "is no sine"

    class Plugin:
        @hookimpl
        def hopyard_register_backends(self) -> Any:
            yield Backend("plain", implementation=Plain)

    assert Support(True) == (True, "")
    session = Session(discover=False, plugins=[delegate_plugin, Plugin()])
    delegated = delegate(session.capture(lambda x: x.sin().exp(), (X,)), session, ("plain",))
    assert [each.reasons for each in report(delegated).undelegated] == [{"plain": "is no sine"}]


def test_a_backend_without_run_lets_the_reference_graph_run(session: Session) -> None:
    delegated = delegate(session.capture(both_waves_and_sums, (X,)), session, ("waves",))
    assert delegated.graph.find_nodes(op="call_function", target=call_delegate)
    assert_close(delegated(X), both_waves_and_sums(X))


def test_a_report_says_shares_and_reads_as_json(session: Session) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).exp())

    program = session.capture(Model(), (X,))
    found = report(delegate(program, session, ("constants", "sums")))
    assert found.data() == json.loads(found.to_json())
    assert found.flops.total == 2 * 2 * 3 * 4 + 2 * 2 * 4 * 4
    data = found.data()
    assert data["operators"]["delegated"] + len(data["undelegated"]) == data["operators"]["total"]
    assert found.parameter_bytes.total == 4 * (12 + 4 + 16 + 4)
    assert "FLOPs" in str(found)
