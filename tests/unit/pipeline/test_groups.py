"""Passes that are repeated, and passes that run on bodies of regions only."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from hopyard.errors import PassError, UsageError, VerificationError
from hopyard.hops import bind
from hopyard.pipeline import origin_of
from hopyard.program import Program
from hopyard.session import Session
from hopyard.verify import walk_graphs
from hopyard_hookspecs import Hop, PassResult

if TYPE_CHECKING:
    from conftest import MakeSession

aten = torch.ops.aten
X = torch.linspace(-1, 1, 6)


class Nested(torch.nn.Module):
    """sin at the top, in a branch, and in a branch of a branch; cos in a mapped body."""

    def forward(self, x: Tensor) -> Tensor:
        def outer(y: Tensor) -> Tensor:
            return torch.cond(y.sum() > 2, torch.sin, torch.tanh, (y.sin(),))

        chosen = torch.cond(x.sum() > 0, outer, lambda y: y.sin() * 2, (x.sin(),))
        return torch._higher_order_ops.map(lambda y: y.cos() + y.sin(), chosen)


@pytest.fixture(scope="module")
def nested() -> Program:
    with torch.no_grad():
        return Session(discover=False).capture(Nested(), (X,))


@pytest.fixture(scope="module")
def chain() -> Program:
    with torch.no_grad():
        return Session(discover=False).capture(lambda x: x.sin().sin().sin().cos(), (X,))


def count(graph_module: GraphModule, target: object) -> dict[str, int]:
    return {
        path: found
        for path, body in walk_graphs(graph_module)
        if (found := len(body.graph.find_nodes(op="call_function", target=target)))
    }


def retarget(graph_module: GraphModule, old: object, new: object, most: int = 99) -> PassResult:
    nodes: list[Node] = graph_module.graph.find_nodes(op="call_function", target=old)[:most]
    for node in nodes:
        node.target = new  # type: ignore[assignment]
    return PassResult(graph_module, modified=bool(nodes))


def one_sin_to_cos(graph_module: GraphModule) -> PassResult:
    return retarget(graph_module, aten.sin.default, aten.cos.default, most=1)


def sin_to_cos(graph_module: GraphModule) -> PassResult:
    return retarget(graph_module, aten.sin.default, aten.cos.default)


def cos_to_sin(graph_module: GraphModule) -> PassResult:
    return retarget(graph_module, aten.cos.default, aten.sin.default)


def boastful(graph_module: GraphModule) -> PassResult:
    return PassResult(graph_module, modified=True)


def test_a_group_is_repeated_until_nothing_changes(
    chain: Program, make_session: MakeSession
) -> None:
    result = make_session(one=one_sin_to_cos).run("repeat(one)", chain)
    assert count(result.program.graph_module, aten.cos.default) == {"": 4}
    assert [(r.step.round, r.modified) for r in result.records] == [
        (1, True),
        (2, True),
        (3, True),
        (4, False),
    ]
    assert {record.step.index for record in result.records} == {0}


def test_what_changes_back_within_a_round_has_settled(
    chain: Program, make_session: MakeSession
) -> None:
    session = make_session(there=sin_to_cos, back=cos_to_sin, boastful=boastful)
    result = session.run("back,repeat(there,back,boastful)", chain)
    assert [record.step.round for record in result.records] == [1, 1, 1, 1]


def test_passes_that_never_settle_are_named(chain: Program, make_session: MakeSession) -> None:
    def swap(graph_module: GraphModule) -> PassResult:
        result = sin_to_cos(graph_module)
        return result if result.modified else cos_to_sin(graph_module)

    session = make_session(swap=swap, boastful=boastful)
    with pytest.raises(PassError) as caught:
        session.run("repeat{most=3}(boastful,swap)", chain)
    assert caught.value.stage == "repeat"
    assert "3 rounds" in caught.value.message
    assert "swap" in caught.value.message
    result = session.run("repeat{most=3,settle=false}(swap)", chain)
    assert len(result.records) == 3


def test_a_pass_that_is_switched_off_does_not_run(
    chain: Program, make_session: MakeSession
) -> None:
    session = make_session(one=one_sin_to_cos, all=sin_to_cos)
    result = session.run("!all,repeat(one,!all),!repeat(all)", chain)
    assert {record.step.name for record in result.records} == {"one"}
    assert session.run("repeat(!all),!one", chain).program is chain


@pytest.mark.parametrize(
    ("of", "operators"),
    [("{of=cond}", ["cond"]), ("{of=[map_impl]}", ["map"]), ("", ["cond", "map"])],
)
def test_passes_run_in_the_bodies_of_some_operators(
    of: str, operators: list[str], nested: Program, make_session: MakeSession
) -> None:
    before = count(nested.graph_module, aten.sin.default)
    in_branches = {path for path in before if "true" in path or "false" in path}
    assert len(in_branches) == 3
    meant = in_branches if "cond" in operators else set()
    meant |= before.keys() - in_branches - {""} if "map" in operators else set()
    result = make_session(swap=sin_to_cos).run(f"regions{of}(swap)", nested)
    after = count(result.program.graph_module, aten.sin.default)
    assert after.keys() == before.keys() - meant
    assert count(nested.graph_module, aten.sin.default) == before
    paths = [record.step.region for record in result.records]
    assert len(paths) == len(set(paths))
    assert "" not in paths


def test_operators_of_plugins_are_named_too(make_session: MakeSession) -> None:
    region = bind(Hop("groups_tests__region"))
    with torch.no_grad():
        program = Session(discover=False).capture(
            lambda x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (region(torch.sin, x),)), (X,)
        )
    session = make_session(swap=sin_to_cos)
    result = session.run("regions{of=groups_tests__region}(swap)", program)
    assert len(result.records) == 1
    assert len(count(result.program.graph_module, aten.cos.default)) == 2


def test_the_result_computes_what_the_passes_make_of_it(
    nested: Program, make_session: MakeSession
) -> None:
    session = make_session(swap=sin_to_cos)
    program = session.run("regions{of=cond}(swap)", nested).program
    for x in (X + 1, X - 1):
        y = x.sin()
        if y.sum() > 0:
            chosen = y.cos().cos() if y.sum() > 2 else y.cos().tanh()
        else:
            chosen = y.cos() * 2
        torch.testing.assert_close(program(x), chosen.cos() + chosen.sin())
    made = [
        str(origin)
        for _, body in walk_graphs(program.graph_module)
        for node in body.graph.nodes
        if (origin := origin_of(node))
    ]
    assert len(made) == 3
    assert all(each.startswith("swap [acme-passes 1.2] from sin") for each in made)


def test_inner_bodies_come_before_those_around_them(
    nested: Program, make_session: MakeSession
) -> None:
    records = make_session(swap=sin_to_cos).run("regions(swap)", nested).records
    paths = [record.step.region for record in records]
    for index, path in enumerate(paths):
        assert not any(later.startswith(f"{path}.") for later in paths[index + 1 :])
    assert any("." in path for path in paths)


def test_a_repeated_group_in_a_region_settles_there(
    nested: Program, make_session: MakeSession
) -> None:
    session = make_session(one=one_sin_to_cos)
    result = session.run("regions{of=cond}(repeat(one))", nested)
    rounds: dict[str, list[int]] = {}
    for record in result.records:
        rounds.setdefault(record.step.region, []).append(record.step.round)
    assert [1, 2] in rounds.values()
    again = session.run("repeat(regions(one))", nested).program
    assert count(again.graph_module, aten.sin.default).keys() == {""}


def drop_output(graph_module: GraphModule) -> None:
    graph_module.graph.output_node().args = ((),)


def other_type(graph_module: GraphModule) -> None:
    output = graph_module.graph.output_node()
    (value,) = output.all_input_nodes[:1]
    with graph_module.graph.inserting_before(output):
        new = graph_module.graph.call_function(aten.sum.default, (value,))
    new.meta["val"] = value.meta["val"].new_empty(())
    output.replace_input_with(value, new)


def more_inputs(graph_module: GraphModule) -> None:
    first = next(iter(graph_module.graph.nodes))
    with graph_module.graph.inserting_before(first):
        new = graph_module.graph.placeholder("more")
    new.meta = dict(first.meta)


@pytest.mark.parametrize("edit", [drop_output, other_type, more_inputs])
def test_a_body_keeps_its_signature(
    edit: Callable[[GraphModule], None], nested: Program, make_session: MakeSession
) -> None:
    def bad(graph_module: GraphModule) -> PassResult:
        edit(graph_module)
        return PassResult(graph_module, modified=True)

    with pytest.raises(VerificationError, match="region") as caught:
        make_session(bad=bad).run("regions{of=cond}(bad)", nested)
    assert caught.value.stage == "bad"


def test_a_body_may_be_replaced_by_another_graph(
    nested: Program, make_session: MakeSession
) -> None:
    def rebuild(graph_module: GraphModule) -> PassResult:
        return sin_to_cos(copy.deepcopy(graph_module))

    program = make_session(rebuild=rebuild).run("regions(rebuild)", nested).program
    assert count(program.graph_module, aten.sin.default).keys() == {""}


def test_only_graph_passes_run_in_regions(nested: Program, make_session: MakeSession) -> None:
    session = make_session(whole=(lambda program, session: program, "program"))
    with pytest.raises(UsageError, match="whole programs"):
        session.run("repeat(regions(repeat(whole)))", nested)
    session.run("repeat(whole)", nested)
