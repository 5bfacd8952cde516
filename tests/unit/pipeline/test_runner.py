"""Running pipelines on captured programs: what results, and what becomes of bad passes."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.pass_base import PassResult as TorchPassResult

from hopyard.errors import (
    OptionError,
    PassError,
    PluginError,
    UnknownNameError,
    VerificationError,
)
from hopyard.hops import bind
from hopyard.pipeline import Pipeline, origin_of, run
from hopyard.program import Program
from hopyard.session import Session
from hopyard_hookspecs import Hop, Pass, PassRecord, PassResult, PassStep, Provider, hookimpl

if TYPE_CHECKING:
    from conftest import MakeSession

aten = torch.ops.aten
ACME = Provider("acme", "acme-passes", "1.2")


class Scaled(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x) * 2.0) + 1.0


def doubled(body: Callable[..., Tensor], *operands: Tensor) -> Tensor:
    return body(*operands)


REGION = bind(Hop("pipeline_tests__region", eager=doubled))


class WithRegion(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return REGION(lambda y: y.sin() * 2.0, x) + 1.0


X = torch.linspace(-1, 1, 12).reshape(3, 4)


@pytest.fixture
def model() -> Scaled:
    return Scaled()


@pytest.fixture
def program(model: Scaled) -> Program:
    return captured(model)


def captured(model: torch.nn.Module) -> Program:
    with torch.no_grad():
        return Session(discover=False).capture(model, (X,))


def find(graph_module: GraphModule, target: object) -> Node:
    return graph_module.graph.find_nodes(op="call_function", target=target)[0]


def snapshot(graph_module: GraphModule) -> list[object]:
    """Return everything about a graph that a pass could spoil, bodies included."""
    seen: list[object] = [graph_module.code]
    for name, child in graph_module.named_modules():
        if isinstance(child, GraphModule):
            seen += [
                (name, node.name, str(node.args), dict(node.meta)) for node in child.graph.nodes
            ]
    return seen


def change(
    edit: Callable[[GraphModule], object], modified: bool = True
) -> Callable[..., PassResult]:
    """Make a pass of a function that edits a graph in place."""

    def changing(graph_module: GraphModule) -> PassResult:
        edit(graph_module)
        return PassResult(graph_module, modified)

    return changing


def sin_for_relu(graph_module: GraphModule) -> None:
    """Replace relu by sin as a careful pass does, save for recompiling."""
    relu = find(graph_module, aten.relu.default)
    with graph_module.graph.inserting_after(relu):
        sin = graph_module.graph.call_function(aten.sin.default, relu.args)
    sin.meta = dict(relu.meta)
    relu.replace_all_uses_with(sin)
    graph_module.graph.erase_node(relu)


def keep(graph_module: GraphModule) -> PassResult:
    return PassResult(graph_module, modified=False)


def test_an_empty_pipeline_returns_the_program(program: Program, make_session: MakeSession) -> None:
    result = run(Pipeline(), program, make_session())
    assert result.program is program
    assert result.records == ()


def test_a_pass_makes_a_new_program(
    program: Program, model: Scaled, make_session: MakeSession
) -> None:
    before = snapshot(program.graph_module)
    result = make_session(swap=change(sin_for_relu)).run("swap", program)
    assert snapshot(program.graph_module) == before
    torch.testing.assert_close(program(X), model(X))
    torch.testing.assert_close(result.program(X), torch.sin(model.linear(X) * 2.0) + 1.0)


def test_programs_share_their_parameters(
    program: Program, model: Scaled, make_session: MakeSession
) -> None:
    result = make_session(swap=change(sin_for_relu), keep=keep).run("swap,keep", program)
    assert result.program.state["linear.weight"] is model.linear.weight
    with torch.no_grad():
        model.linear.weight.zero_()
    torch.testing.assert_close(result.program(X), torch.sin(model.linear.bias * 2.0) + 1 + 0 * X)


def test_records_say_what_each_pass_did(program: Program, make_session: MakeSession) -> None:
    @dataclass(frozen=True)
    class Grow:
        by: int = 1

        def __call__(self, graph_module: GraphModule) -> PassResult:
            relu = find(graph_module, aten.relu.default)
            for _ in range(self.by):
                with graph_module.graph.inserting_after(relu):
                    new = graph_module.graph.call_function(aten.relu.default, relu.args)
                new.meta = dict(relu.meta)
            return PassResult(graph_module, modified=True)

    grow, kept = make_session(grow=Grow, keep=keep).run("grow{by=3},keep", program).records
    count = len(program.graph.nodes)
    assert (grow.nodes_before, grow.nodes_after, grow.modified) == (count, count + 3, True)
    assert (kept.nodes_before, kept.nodes_after, kept.modified) == (count + 3, count + 3, False)
    assert grow.step == PassStep(0, "grow", {"by": 3}, ACME)
    assert kept.step.index == 1
    assert grow.seconds > 0
    assert grow.verify_seconds > 0


def test_observers_see_the_graph_before_and_after(
    program: Program, make_session: MakeSession
) -> None:
    class Observer:
        def __init__(self) -> None:
            self.seen: list[tuple[str, bool]] = []

        @hookimpl
        def hopyard_before_pass(self, step: PassStep, graph_module: GraphModule) -> None:
            self.seen.append((step.name, aten.relu.default in targets(graph_module)))

        @hookimpl
        def hopyard_after_pass(self, record: PassRecord, graph_module: GraphModule) -> None:
            self.seen.append((record.step.name, aten.relu.default in targets(graph_module)))

    observer = Observer()
    make_session(observer, swap=change(sin_for_relu), keep=keep).run("keep,swap", program)
    assert observer.seen == [("keep", True), ("keep", True), ("swap", True), ("swap", False)]
    with pytest.raises(PassError):
        make_session(observer, bad=change(fail)).run("bad", program)
    assert observer.seen[4:] == [("bad", True)]


def targets(graph_module: GraphModule) -> set[object]:
    return {node.target for node in graph_module.graph.nodes}


def fail(graph_module: GraphModule) -> None:
    raise LookupError("no table")


def test_an_observer_that_raises_is_named(program: Program, make_session: MakeSession) -> None:
    class Broken:
        @hookimpl
        def hopyard_before_pass(self) -> None:
            raise LookupError("no screen")

    with pytest.raises(PluginError) as caught:
        make_session(Broken(), keep=keep).run("keep", program)
    assert caught.value.plugin is not None
    assert caught.value.plugin.plugin == "broken"


def test_the_same_pass_may_run_twice(
    program: Program, model: Scaled, make_session: MakeSession
) -> None:
    def once_more(graph_module: GraphModule) -> None:
        add = find(graph_module, aten.add.Tensor)
        with graph_module.graph.inserting_after(add):
            again = graph_module.graph.call_function(aten.add.Tensor, (add, 1.0))
        again.meta = dict(add.meta)
        add.replace_all_uses_with(again, delete_user_cb=lambda user: user is not again)

    result = make_session(more=change(once_more)).run("more,more", program)
    torch.testing.assert_close(result.program(X), model(X) + 2.0)


def test_new_nodes_name_the_pass_that_made_them(
    program: Program, make_session: MakeSession
) -> None:
    def retarget(graph_module: GraphModule) -> None:
        find(graph_module, aten.add.Tensor).target = aten.sub.Tensor

    session = make_session(swap=change(sin_for_relu), retarget=change(retarget))
    graph = session.run("swap,retarget", program).program.graph
    made = {node.name: str(origin) for node in graph.nodes if (origin := origin_of(node))}
    assert made == {
        "sin_default": "swap [acme-passes 1.2] from relu",
        "add": "retarget [acme-passes 1.2] from add",
    }


def test_a_pass_may_build_another_graph(
    program: Program, model: Scaled, make_session: MakeSession
) -> None:
    def rebuild(graph_module: GraphModule) -> PassResult:
        rebuilt = copy.deepcopy(graph_module)
        sin_for_relu(rebuilt)
        return PassResult(rebuilt, modified=True)

    graph = make_session(rebuild=rebuild).run("rebuild", program).program.graph
    assert [node.name for node in graph.nodes if origin_of(node)] == ["sin_default"]


def test_torchs_own_pass_result_is_accepted(program: Program, make_session: MakeSession) -> None:
    def torch_pass(graph_module: GraphModule) -> TorchPassResult:
        sin_for_relu(graph_module)
        return TorchPassResult(graph_module, True)

    result = make_session(torch_pass=torch_pass).run("torch-pass", program)
    assert aten.sin.default in targets(result.program.graph_module)


def test_a_program_pass_is_given_program_and_session(
    program: Program, make_session: MakeSession
) -> None:
    given: list[Any] = []

    def through(program: Program, session: Session) -> Program:
        given[:] = [program, session]
        sin_for_relu(program.graph_module)
        program.graph_module.recompile()
        return program

    session = make_session(through=(through, "program"))
    before = snapshot(program.graph_module)
    result = session.run("through", program)
    assert isinstance(given[0], Program)
    assert given[1] is session
    assert result.records[0].modified
    assert snapshot(program.graph_module) == before
    assert origin_of(find(result.program.graph_module, aten.sin.default))


def drop_value(graph_module: GraphModule) -> None:
    del find(graph_module, aten.relu.default).meta["val"]


def wrong_shape(graph_module: GraphModule) -> None:
    relu = find(graph_module, aten.relu.default)
    relu.meta["val"] = relu.meta["val"].new_empty((4, 3))


def wrong_type(graph_module: GraphModule) -> None:
    relu = find(graph_module, aten.relu.default)
    relu.meta["val"] = relu.meta["val"].to(torch.float64)


def stale_values(graph_module: GraphModule) -> None:
    relu = find(graph_module, aten.relu.default)
    relu.target, relu.args = aten.sum.default, relu.args


def wrong_input(graph_module: GraphModule) -> None:
    x = graph_module.graph.find_nodes(op="placeholder")[-1]
    x.meta["val"] = x.meta["val"].new_empty((7, 4))


def impossible(graph_module: GraphModule) -> None:
    relu = find(graph_module, aten.relu.default)
    relu.target, relu.args = aten.mm.default, (relu.args[0], relu.args[0])


def scalar_result(graph_module: GraphModule) -> None:
    add = find(graph_module, aten.add.Tensor)
    add.target, add.args = aten.sum.default, add.args[:1]
    add.meta["val"] = add.meta["val"].new_empty(())


def unknown_symbol(graph_module: GraphModule) -> None:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    relu = find(graph_module, aten.relu.default)
    with relu.meta["val"].fake_mode:
        size = ShapeEnv().create_unbacked_symint()
        relu.meta["val"] = torch.empty_strided((size, 4), (4, 1))


def no_value_returned(graph_module: GraphModule) -> None:
    graph_module.graph.output_node().args = ()


def use_before_definition(graph_module: GraphModule) -> None:
    relu = find(graph_module, aten.relu.default)
    find(graph_module, aten.add.Tensor).append(relu)


def erase_by_force(graph_module: GraphModule) -> None:
    relu = find(graph_module, aten.relu.default)
    relu.users.clear()
    graph_module.graph.erase_node(relu)


def call_torch(graph_module: GraphModule) -> None:
    find(graph_module, aten.relu.default).target = torch.relu


def another_input(graph_module: GraphModule) -> None:
    graph = graph_module.graph
    with graph.inserting_before(next(iter(graph.nodes))):
        graph.placeholder("more").meta["val"] = None


def fewer_outputs(graph_module: GraphModule) -> None:
    graph_module.graph.output_node().args = ((),)


@pytest.mark.parametrize(
    ("edit", "node"),
    [
        (drop_value, "relu"),
        (wrong_shape, "relu"),
        (wrong_type, "relu"),
        (stale_values, "relu"),
        (wrong_input, "x"),
        (impossible, "relu"),
        (use_before_definition, "relu"),
        (erase_by_force, "relu"),
        (call_torch, "relu"),
        (another_input, "more"),
        (fewer_outputs, "0 values"),
        (scalar_result, "add"),
        (unknown_symbol, "relu"),
        (no_value_returned, "output"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("modified", [True, False])
def test_an_unsound_graph_is_refused_and_attributed(
    edit: Callable[[GraphModule], object],
    node: str,
    modified: bool,
    program: Program,
    make_session: MakeSession,
) -> None:
    before = snapshot(program.graph_module)
    with pytest.raises(PassError) as caught:
        make_session(keep=keep, bad=change(edit, modified)).run("keep,bad", program)
    assert caught.value.plugin == ACME
    assert caught.value.stage == "bad"
    assert snapshot(program.graph_module) == before
    if modified:
        assert isinstance(caught.value, VerificationError)
        assert isinstance(caught.value.__cause__, VerificationError)
        assert node in caught.value.message


def test_the_line_that_made_the_node_is_named(program: Program, make_session: MakeSession) -> None:
    with pytest.raises(VerificationError) as caught:
        make_session(bad=change(wrong_shape)).run("bad", program)
    assert caught.value.node == "relu"
    assert caught.value.location is not None
    assert caught.value.location.file == __file__


def raise_midway(graph_module: GraphModule) -> None:
    for node in list(graph_module.graph.nodes):
        node.meta.clear()
    sin_for_relu(graph_module)
    raise LookupError("no table")


def erase_used(graph_module: GraphModule) -> None:
    graph_module.graph.erase_node(find(graph_module, aten.relu.default))


@pytest.mark.parametrize("edit", [raise_midway, erase_used])
def test_a_pass_that_raises_leaves_the_program_alone(
    edit: Callable[[GraphModule], object],
    program: Program,
    model: Scaled,
    make_session: MakeSession,
) -> None:
    before = snapshot(program.graph_module)
    with pytest.raises(PassError) as caught:
        make_session(bad=change(edit)).run("bad", program)
    assert caught.value.plugin == ACME
    assert caught.value.stage == "bad"
    assert isinstance(caught.value.__cause__, (LookupError, RuntimeError))
    assert snapshot(program.graph_module) == before
    torch.testing.assert_close(program(X), model(X))


def test_the_node_that_a_pass_was_working_on_is_named(
    program: Program, make_session: MakeSession
) -> None:
    def rule(node: Node) -> None:
        if node.target is aten.relu.default:
            raise LookupError("no rule")

    def apply(graph_module: GraphModule) -> None:
        for each in list(graph_module.graph.nodes):
            rule(each)

    with pytest.raises(PassError) as caught:
        make_session(bad=change(apply)).run("bad", program)
    error = caught.value
    assert error.node == "relu"
    assert "'relu'" in error.message
    assert error.location is not None
    assert error.location.file == __file__
    line = rule.__code__.co_firstlineno + 2
    assert f"{__file__}:{line}" in error.hint


def test_an_interrupt_is_no_failure_of_the_pass(
    program: Program, make_session: MakeSession
) -> None:
    def interrupted(graph_module: GraphModule) -> PassResult:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_session(slow=interrupted).run("slow", program)


@dataclass(frozen=True)
class Undecided:
    graph_module: GraphModule
    modified: object = None


@pytest.mark.parametrize(
    "result",
    [
        lambda graph_module: None,
        lambda graph_module: graph_module,
        lambda graph_module: True,
        lambda graph_module: (graph_module, True),
        lambda graph_module: PassResult(graph_module.graph, modified=True),
        lambda graph_module: Undecided(graph_module),
    ],
)
def test_a_result_of_another_type_is_refused(
    result: Callable[[GraphModule], object], program: Program, make_session: MakeSession
) -> None:
    with pytest.raises(PassError) as caught:
        make_session(bad=result).run("bad", program)
    assert caught.value.plugin == ACME
    assert "PassResult" in caught.value.hint


@pytest.mark.parametrize("result", [None, PassResult(GraphModule({}, torch.fx.Graph()), True)])
def test_a_program_pass_must_return_a_program(
    result: object, program: Program, make_session: MakeSession
) -> None:
    with pytest.raises(PassError, match="instead of a Program") as caught:
        make_session(bad=(lambda program, session: result, "program")).run("bad", program)
    assert caught.value.stage == "bad"


def other_constant(graph_module: GraphModule) -> None:
    add = find(graph_module, aten.add.Tensor)
    add.args = (add.args[0], 1)


@pytest.mark.parametrize("edit", [sin_for_relu, other_constant])
def test_a_pass_that_denies_its_change_is_refused(
    edit: Callable[[GraphModule], object], program: Program, make_session: MakeSession
) -> None:
    with pytest.raises(PassError, match="changed nothing") as caught:
        make_session(bad=change(edit, modified=False)).run("bad", program)
    assert not isinstance(caught.value, VerificationError)


def test_zeros_of_different_sign_are_different(make_session: MakeSession) -> None:
    class Reciprocal(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / 0.0

    def negate(graph_module: GraphModule) -> None:
        quotient = find(graph_module, aten.div.Tensor)
        quotient.args = (quotient.args[0], -0.0)

    with pytest.raises(PassError, match="changed nothing"):
        make_session(bad=change(negate, modified=False)).run("bad", captured(Reciprocal()))


def test_a_note_in_the_metadata_is_no_change(program: Program, make_session: MakeSession) -> None:
    def annotate(graph_module: GraphModule) -> None:
        for node in graph_module.graph.nodes:
            node.meta["note"] = "seen"

    result = make_session(note=change(annotate, modified=False)).run("note", program)
    assert all(node.meta["note"] == "seen" for node in result.program.graph.nodes)
    assert not any("note" in node.meta for node in program.graph.nodes)


def test_a_graph_of_another_program_stays_its_own(
    program: Program, make_session: MakeSession
) -> None:
    other = captured(Scaled())
    sin_for_relu(other.graph_module)
    other.graph_module.recompile()
    before = snapshot(other.graph_module)

    def steal(graph_module: GraphModule) -> PassResult:
        return PassResult(other.graph_module, modified=True)

    result = make_session(steal=steal).run("steal", program)
    assert result.program.graph_module is not other.graph_module
    assert snapshot(other.graph_module) == before


def test_a_graph_of_a_program_with_other_inputs_is_refused(
    program: Program, make_session: MakeSession
) -> None:
    other = captured(WithRegion())

    def steal(graph_module: GraphModule) -> PassResult:
        return PassResult(other.graph_module, modified=True)

    with pytest.raises(VerificationError, match="inputs") as caught:
        make_session(steal=steal).run("steal", program)
    assert caught.value.plugin == ACME


def body_of(graph_module: GraphModule) -> GraphModule:
    return next(child for child in graph_module.children() if isinstance(child, GraphModule))


def test_a_pass_may_edit_the_body_of_a_region(make_session: MakeSession) -> None:
    program = captured(WithRegion())
    before = snapshot(program.graph_module)

    def cos_for_sin(graph_module: GraphModule) -> None:
        find(body_of(graph_module), aten.sin.default).target = aten.cos.default

    result = make_session(cos=change(cos_for_sin), keep=keep).run("cos,keep", program)
    assert snapshot(program.graph_module) == before
    torch.testing.assert_close(program(X), X.sin() * 2.0 + 1.0)
    torch.testing.assert_close(result.program(X), X.cos() * 2.0 + 1.0)
    body = body_of(result.program.graph_module)
    assert str(origin_of(find(body, aten.cos.default))) == "cos [acme-passes 1.2] from sin"
    assert result.records[0].nodes_after == len(result.program.graph.nodes) + len(body.graph.nodes)


def test_a_body_is_verified_and_so_is_what_calls_it(make_session: MakeSession) -> None:
    program = captured(WithRegion())

    def wrong_in_body(graph_module: GraphModule) -> None:
        drop = find(body_of(graph_module), aten.sin.default)
        del drop.meta["val"]

    def stale_caller(graph_module: GraphModule) -> None:
        body = body_of(graph_module)
        mul = find(body, aten.mul.Tensor)
        mul.target, mul.args = aten.sum.default, mul.args[:1]
        mul.meta["val"] = mul.meta["val"].new_empty(())

    def denied(graph_module: GraphModule) -> None:
        find(body_of(graph_module), aten.sin.default).target = aten.cos.default

    session = make_session(
        body=change(wrong_in_body),
        caller=change(stale_caller),
        denied=change(denied, modified=False),
    )
    with pytest.raises(VerificationError, match="region"):
        session.run("body", program)
    with pytest.raises(VerificationError, match="'pipeline_tests__region'"):
        session.run("caller", program)
    with pytest.raises(PassError, match="changed nothing"):
        session.run("denied", program)


def test_nothing_runs_before_everything_is_known(
    program: Program, make_session: MakeSession
) -> None:
    ran = []
    session = make_session(note=change(ran.append), keep=keep)
    for text, error in (("note,kep", UnknownNameError), ("note,keep{x=1}", OptionError)):
        with pytest.raises(error):
            run(Pipeline.parse(text), program, session)
    assert ran == []


@pytest.mark.parametrize(
    "surroundings",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
        torch.enable_grad,
    ],
)
def test_verification_ignores_what_surrounds_it(
    surroundings: Callable[[], Any], program: Program, make_session: MakeSession
) -> None:
    def square(graph_module: GraphModule) -> None:
        relu = find(graph_module, aten.relu.default)
        weight = graph_module.graph.find_nodes(op="placeholder")[0]
        relu.target, relu.args = aten.mm.default, (relu.args[0], weight)

    with surroundings():
        make_session(square=change(square)).run("square", program)


def test_two_threads_transform_one_program(
    program: Program, model: Scaled, make_session: MakeSession
) -> None:
    start = threading.Barrier(4)

    def tanh_for_relu(graph_module: GraphModule) -> None:
        find(graph_module, aten.relu.default).target = aten.tanh.default

    session = make_session(sin=change(sin_for_relu), tanh=change(tanh_for_relu), keep=keep)
    before = snapshot(program.graph_module)

    def transform(text: str) -> Tensor:
        start.wait()
        for _ in range(5):
            result = session.run(text, program).program
        with torch.no_grad():
            return result(X)

    with ThreadPoolExecutor(4) as threads:
        texts = ["sin,keep", "keep,tanh,keep"] * 2
        results = list(threads.map(transform, texts))
    with torch.no_grad():
        hidden = model.linear(X) * 2.0
    for text, result in zip(texts, results, strict=True):
        expected = torch.sin(hidden) if "sin" in text else torch.tanh(hidden)
        torch.testing.assert_close(result, expected + 1.0)
    assert snapshot(program.graph_module) == before


def test_a_result_cannot_be_changed(program: Program, make_session: MakeSession) -> None:
    result = run(Pipeline(), program, make_session())
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.records = ()  # type: ignore[misc]


def has_relu(graph_module: GraphModule) -> str:
    return "" if aten.relu.default in targets(graph_module) else "there is no relu"


def has_no_relu(graph_module: GraphModule) -> str:
    return "" if has_relu(graph_module) else "there is a relu"


def test_what_a_pass_requires_and_ensures_is_checked(program: Program) -> None:
    class Conditional:
        @hookimpl
        def hopyard_register_passes(self) -> list[Pass]:
            swap = change(sin_for_relu)
            return [
                Pass("swap", swap, requires=(has_relu,), ensures=(has_no_relu,)),
                Pass("idle", keep, ensures=(has_no_relu,)),
                Pass("broken", keep, requires=(fail,)),
                Pass("unusable", keep, requires=("math:pi",)),
            ]

    session = Session(plugins=[Conditional()], discover=False)
    session.run("swap,idle", program)
    for text, said in (
        ("swap,swap", "requires 'has relu', and was given a graph that is not: there is no relu"),
        ("idle", "ensures 'has no relu', and returned a graph that is not: there is a relu"),
        ("broken", "LookupError"),
    ):
        with pytest.raises(PassError) as caught:
            session.run(text, program)
        assert said in caught.value.message
        assert caught.value.plugin is not None
        assert caught.value.plugin.plugin == "conditional"
    with pytest.raises(PluginError):
        session.pipeline("unusable")


def test_a_result_may_be_laid_out_otherwise(program: Program, make_session: MakeSession) -> None:
    def transpose(graph_module: GraphModule) -> None:
        add = find(graph_module, aten.add.Tensor)
        value = add.meta["val"]
        for target, args in ((aten.t.default, ()), (aten.clone.default, ()), (aten.t.default, ())):
            last = graph_module.graph.output_node().all_input_nodes[0]
            with graph_module.graph.inserting_after(last):
                new = graph_module.graph.call_function(target, (last, *args))
            keywords = {"memory_format": torch.contiguous_format}
            new.kwargs = keywords if target is aten.clone.default else {}
            with torch.no_grad():
                value = target(value, **new.kwargs)
            new.meta["val"] = value
            graph_module.graph.output_node().replace_input_with(last, new)

    result = make_session(lay=change(transpose)).run("lay", program)
    torch.testing.assert_close(result.program(X), program(X))
    assert result.program(X).stride() != program(X).stride()
