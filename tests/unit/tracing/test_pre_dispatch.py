"""Captures above autograd: what autograd, autocast and transforms are told stays in the graph."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._dynamo
from functorch.experimental.control_flow import map as torch_map
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._higher_order_ops.scan import scan
from torch._ops import mode_stack_state_for_pre_dispatch
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import hopyard
from hopyard.errors import CaptureError, CaptureWarning, UnsupportedError
from hopyard.hops import bind
from hopyard.testing import assert_same_graph
from hopyard_hookspecs import Hop

# torch compiles decompositions for forward differentiation when the first is asked for.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`torch.jit.script` is deprecated:DeprecationWarning"
)

aten = torch.ops.aten


def composites(x: Tensor) -> Tensor:
    y = torch.nn.functional.linear(x.reshape(4, 4), x).softmax(-1)
    return torch.nn.functional.layer_norm(y, (4,)).to(torch.float64)


def without_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x.sin()
        with torch.enable_grad():
            y = y * x
    return y + x


def set_as_context(x: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        return x.sin() + x.cos()


def set_as_function(x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    y = x.sin()
    torch.set_grad_enabled(True)
    return y * x


@torch.no_grad()
def decorated(x: Tensor) -> Tensor:
    return x.sin()


@torch.set_grad_enabled(False)
def decorated_by_set(x: Tensor) -> Tensor:
    return x.sin() * decorated(x)


def decorated_generator(x: Tensor) -> Any:
    @torch.no_grad()
    def rows() -> Iterator[Tensor]:
        for row in x:
            yield row.sin()

    return torch.stack([row * 2 for row in rows()])


def unused_in_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        x.sin()
    return x.cos()


def cast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return x @ x


def cast_nested(x: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = x @ x
        with torch.autocast("cpu", enabled=False):
            z = x @ x
        with torch.autocast("cpu", dtype=torch.float16, cache_enabled=True), torch.no_grad():
            return y, z, x @ x, torch.nn.functional.linear(x, x)


@torch.autocast("cpu", dtype=torch.bfloat16)
def cast_decorated(x: Tensor) -> Tensor:
    return x @ x


def cast_twice_alike(x: Tensor) -> Any:
    first = x @ x
    with torch.autocast("cpu", dtype=torch.bfloat16):
        second = x @ x
    return first, second, x @ x


def gradients(x: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad((x * x).sum(), x, create_graph=True)
    return gradient * x


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2


def custom_function(x: Tensor) -> Any:
    return Doubled.apply(x.sin())


def in_place(x: Tensor) -> Tensor:
    y = x.clone()
    view = y.view(-1)
    view.add_(1)
    view[0] = 3
    return y.t_()


def constants(x: Tensor) -> Tensor:
    factor = torch.tensor(3.0)
    return x * factor if factor > 2 else x


def dual_numbers(x: Tensor) -> Any:
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x.cos())
        return forward_ad.unpack_dual(dual.sin() * x).tangent


def in_inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.reshape(-1).sin() + 1


def branches(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda a: a.reshape(-1).sin(), lambda a: -a.reshape(-1), (x,))


def branches_without_grad(x: Tensor) -> Tensor:
    def body(a: Tensor) -> Tensor:
        with torch.no_grad():
            return (a @ a).sin()

    return torch.cond(x.sum() > 0, body, lambda a: a @ a, (x,)) * 2


def branches_without_dynamo(x: Tensor) -> Any:
    return torch.ops.higher_order.cond(
        x.sum() > 0, lambda a: (a.reshape(-1).sin(),), lambda a: (-a.reshape(-1),), (x,)
    )


def maps(x: Tensor) -> Tensor:
    rows = x.detach()
    return torch_map(lambda row, whole: (row * whole).sum(0), rows, rows.cos())


def scans(x: Tensor) -> Any:
    rows = x.detach()
    return scan(lambda carry, row: (carry + row, carry * row), rows[0], rows, dim=0)


PROGRAMS = [
    composites,
    without_grad,
    set_as_context,
    set_as_function,
    decorated,
    decorated_by_set,
    decorated_generator,
    unused_in_no_grad,
    cast,
    cast_nested,
    cast_decorated,
    cast_twice_alike,
    gradients,
    custom_function,
    in_place,
    constants,
    in_inference,
]
REGIONS = [branches, branches_without_grad, maps, scans]


def inputs(*, requires_grad: bool = False) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(4, 4, requires_grad=requires_grad)


def captured(
    make: Callable[..., Any], function: Callable[..., Any], mode: str, *values: Any, **options: Any
) -> GraphModule:
    # Dynamo, which operators may hand their bodies to, remembers the sizes it has seen.
    torch._dynamo.reset()
    # Operators that hand their bodies to Dynamo see other sizes when it has seen these before.
    torch._dynamo.reset()
    graph_module: GraphModule = make(function, tracing_mode=mode, pre_dispatch=True, **options)(
        *values
    )
    return graph_module


def same_as_torch(
    function: Callable[..., Any],
    mode: str,
    make_inputs: Callable[[], Tensor] = inputs,
    **options: Any,
) -> GraphModule:
    """Return our graph of a function, which must be torch's, names and keys of metadata as well."""
    expected = captured(torch_make_fx, function, mode, make_inputs(), **options)
    actual = captured(hopyard.make_fx, function, mode, make_inputs(), **options)
    assert_same_graph(actual, expected)
    assert [(node.name, sorted(node.meta)) for node in actual.graph.nodes] == [
        (node.name, sorted(node.meta)) for node in expected.graph.nodes
    ]
    assert actual.code == expected.code
    return actual


def surroundings() -> list[Any]:
    return [
        _get_current_dispatch_mode_stack(),
        _get_current_function_mode_stack(),
        mode_stack_state_for_pre_dispatch().count(),
        torch._C._dispatch_tls_local_include_set().raw_repr(),
        torch._C._dispatch_tls_local_exclude_set().raw_repr(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.is_autocast_cache_enabled(),
    ]


@pytest.mark.parametrize(
    ("program", "requires_grad"),
    [*itertools.product(PROGRAMS, (False, True)), *((region, False) for region in REGIONS)],
    ids=lambda value: getattr(value, "__name__", "trained" if value is True else "plain"),
)
def test_a_graph_is_torchs_and_computes_what_the_program_does(
    program: Callable[..., Any], requires_grad: bool, mode: str
) -> None:
    graph_module = same_as_torch(program, mode, lambda: inputs(requires_grad=requires_grad))
    with torch.no_grad():
        result = graph_module(inputs())
    torch.testing.assert_close(result, program(inputs()), rtol=0, atol=0)


def test_dual_numbers_are_torchs(mode: str) -> None:
    # Outside of an export torch does not tell about the level, without which the graph cannot run.
    same_as_torch(dual_numbers, mode)


@pytest.mark.parametrize("mode", ["fake", "real"])
def test_a_body_is_described_under_its_own_autocast(mode: str) -> None:
    # Dynamo hands torch's rule a graph that calls `_enter_autocast`. torch's tracer records the
    # call without making it, and says that the product is float32.
    def body(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return x @ x

    def program(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, body, lambda y: (y @ y).to(torch.bfloat16), (x,))

    expected = captured(torch_make_fx, program, mode, inputs())
    actual = captured(hopyard.make_fx, program, mode, inputs())
    assert actual.code == expected.code
    branch = actual.true_graph_0
    assert branch.code == expected.true_graph_0.code
    (product,) = branch.graph.find_nodes(op="call_function", target=aten.matmul.default)
    assert product.meta["val"].dtype == torch.bfloat16
    torch.testing.assert_close(actual(inputs()), program(inputs()))


def test_composite_operators_are_kept(mode: str) -> None:
    graph_module = captured(hopyard.make_fx, composites, mode, inputs())
    targets = [node.target for node in graph_module.graph.nodes if node.op == "call_function"]
    assert aten.linear.default in targets
    assert aten.layer_norm.default in targets
    assert aten.to.dtype in targets


def test_a_decomposition_table_applies(mode: str) -> None:
    table = {aten.linear.default: lambda x, weight, bias=None: x @ weight.t()}
    graph_module = same_as_torch(composites, mode, decomposition_table=table)
    assert not graph_module.graph.find_nodes(op="call_function", target=aten.linear.default)
    assert graph_module.graph.find_nodes(op="call_function", target=aten.matmul.default)


@pytest.mark.parametrize("program", [unused_in_no_grad, cast_nested])
def test_state_survives_dead_code_elimination(program: Callable[..., Any], mode: str) -> None:
    graph_module = captured(hopyard.make_fx, program, mode, inputs())

    def state() -> list[Any]:
        return [
            (node.target, node.args)
            for node in graph_module.graph.nodes
            if "autocast" in node.name or "grad" in node.name
        ]

    before = state()
    graph_module.graph.eliminate_dead_code()
    assert state() == before
    assert len(before) in (2, 8)


def test_each_autocast_region_ends_with_the_node_that_began_it(mode: str) -> None:
    graph_module = captured(hopyard.make_fx, cast_nested, mode, inputs())
    nodes = {node.name: node for node in graph_module.graph.nodes}
    assert nodes["_exit_autocast"].args == (nodes["_enter_autocast_1"],)
    assert nodes["_exit_autocast_1"].args == (nodes["_enter_autocast_2"],)
    assert nodes["_exit_autocast_2"].args == (nodes["_enter_autocast"],)


def test_a_captured_graph_captured_again_casts_as_before(mode: str) -> None:
    once = captured(hopyard.make_fx, cast_nested, mode, inputs())
    again = captured(hopyard.make_fx, once, mode, inputs())
    first, second = (
        [(node.target, node.meta.get("tensor_meta")) for node in graph_module.graph.nodes][1:]
        for graph_module in (once, again)
    )
    assert first == second
    assert torch.bfloat16 in {each.dtype for _, each in first if each is not None}
    assert not torch.is_autocast_enabled("cpu")


def test_vmap_is_captured_while_exporting(mode: str, exporting: None) -> None:
    def program(x: Tensor) -> Tensor:
        return torch.vmap(lambda row: row.sin().sum() * x.sum())(x)

    if mode == "fake":
        same_as_torch(program, mode)
    graph_module = captured(hopyard.make_fx, program, mode, inputs())
    other = torch.randn(4, 4)
    torch.testing.assert_close(graph_module(other), program(other))


@pytest.mark.parametrize("nested", [False, True])
def test_forward_differentiation_is_captured_while_exporting(
    nested: bool, mode: str, exporting: None
) -> None:
    def program(x: Tensor) -> Any:
        result = torch.func.jvp(torch.sin, (x,), (x.cos(),))
        return torch.vmap(torch.cos)(result[1]) if nested else result

    if mode == "fake":
        same_as_torch(program, mode)
    graph_module = captured(hopyard.make_fx, program, mode, inputs())
    other = torch.randn(4, 4)
    torch.testing.assert_close(graph_module(other), program(other))


TRANSFORMS = [
    lambda x: torch.vmap(lambda row: row.sin().sum())(x),
    lambda x: torch.vmap(torch.vmap(lambda value: value * 2))(x),
    lambda x: torch.func.grad(lambda y: y.sin().sum())(x),
    lambda x: torch.func.vjp(torch.sin, x)[1](x),
    lambda x: torch.func.jvp(torch.sin, (x,), (x,)),
    lambda x: torch.func.functionalize(lambda y: y.clone().add_(1))(x),
    lambda x: torch.vmap(torch.func.grad(lambda row: row.sin().sum()))(x),
]


@pytest.mark.parametrize("mode", ["fake", "real"])
@pytest.mark.filterwarnings("ignore::hopyard.errors.CaptureWarning")
@pytest.mark.parametrize("program", TRANSFORMS)
def test_a_graph_with_transforms_is_torchs(program: Callable[..., Any], mode: str) -> None:
    same_as_torch(program, mode)


@pytest.mark.filterwarnings("ignore::hopyard.errors.CaptureWarning")
@pytest.mark.parametrize("program", TRANSFORMS[2:4])
def test_a_graph_with_gradients_is_torchs_while_exporting(
    program: Callable[..., Any], exporting: None
) -> None:
    same_as_torch(program, "fake")


HIDDEN = [
    pytest.param(lambda x: torch.vmap(lambda row: row.sin())(x), ["fake", "real"], id="vmap"),
    pytest.param(torch.func.grad(lambda y: y.sin().sum()), ["fake", "real"], id="grad"),
    pytest.param(lambda x: x.data.sin(), ["fake"], id="data"),
    pytest.param(
        lambda x: torch.autograd.grad(x.softmax(0).sum(), x), ["fake"], id="saved for backward"
    ),
]


@pytest.mark.parametrize(("program", "modes"), HIDDEN)
def test_a_constant_that_nobody_saw_made_is_warned_of(
    program: Callable[[Tensor], Any], modes: list[str]
) -> None:
    for mode in modes:
        with pytest.warns(CaptureWarning, match="_tensor_constant0") as caught:
            captured(hopyard.make_fx, program, mode, inputs(requires_grad=True))
        assert caught[0].filename == __file__


def test_a_fake_tensor_that_was_there_before_is_no_reason_to_warn() -> None:
    fake_mode = FakeTensorMode()
    x, closed_over = fake_mode.from_tensor(inputs()), fake_mode.from_tensor(torch.ones(4))
    graph_module = captured(hopyard.make_fx, lambda x: x + closed_over, "fake", x)
    assert graph_module._tensor_constant0 is closed_over


def test_a_custom_operator_is_kept(mode: str) -> None:
    with torch.library._scoped_library("hopyard_above", "FRAGMENT") as library:
        library.define("doubled(Tensor x) -> Tensor")
        library.impl("doubled", lambda x: x * 2, "CompositeImplicitAutograd")
        library.define("halved(Tensor x) -> Tensor")
        library.impl("halved", lambda x: x / 2, "CompositeExplicitAutograd")

        def program(x: Tensor) -> Tensor:
            operators = torch.ops.hopyard_above
            return operators.halved(operators.doubled(x))

        graph_module = same_as_torch(program, mode)
        calls = graph_module.graph.find_nodes
        assert calls(op="call_function", target=torch.ops.hopyard_above.doubled.default)
        assert calls(op="call_function", target=torch.ops.hopyard_above.halved.default)


def test_a_higher_order_operator_of_ours_is_kept(mode: str) -> None:
    region = bind(Hop(f"above_autograd__region_{mode}", eager=lambda body, *values: body(*values)))

    def program(x: Tensor) -> Tensor:
        return region(lambda y: y.reshape(-1).sin(), x) * 2

    graph_module = captured(hopyard.make_fx, program, mode, inputs())
    (call,) = graph_module.graph.find_nodes(op="call_function", target=region)
    body = getattr(graph_module, call.args[0].target)
    assert body.graph.find_nodes(op="call_function", target=aten.reshape.default)
    torch.testing.assert_close(graph_module(inputs()), program(inputs()))


def test_a_higher_order_operator_defined_during_a_capture_is_found(mode: str) -> None:
    class Late(torch._ops.HigherOrderOperator):
        def __call__(self, *operands: Any) -> Any:
            return super().__call__(*operands)

    def rule(mode: ProxyTorchDispatchMode, x: Tensor) -> Tensor:
        with mode:
            return x.sin()

    def program(x: Tensor) -> Any:
        late = Late(f"above_autograd__late_{mode}")
        late.py_impl(ProxyTorchDispatchMode)(rule)
        return late(x).cos()

    graph_module = captured(hopyard.make_fx, program, mode, inputs())
    assert torch.equal(graph_module(inputs()), inputs().sin().cos())


def interrupted_by_error(x: Tensor) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        raise ValueError(str(x.shape))


def left_without_grad(x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    raise ValueError(str(x.shape))


def left_in_autocast(x: Tensor) -> Tensor:
    torch.amp.autocast_mode._enter_autocast("cpu", torch.bfloat16, True, False)
    raise ValueError(str(x.shape))


def interrupted_in_body(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, interrupted_by_error, lambda a: a, (x,))


@pytest.mark.parametrize(
    "program",
    [interrupted_by_error, left_without_grad, left_in_autocast, interrupted_in_body],
    ids=lambda program: program.__name__,
)
def test_an_error_leaves_nothing_behind(program: Callable[..., Any], mode: str) -> None:
    captured(hopyard.make_fx, composites, mode, inputs())
    before = surroundings()
    with pytest.raises(CaptureError) as caught:
        captured(hopyard.make_fx, program, mode, inputs())
    assert caught.value.partial_graph is not None
    assert surroundings() == before


def test_a_program_that_ends_in_another_grad_mode_does_so_only_when_it_runs(mode: str) -> None:
    def program(x: Tensor) -> Tensor:
        torch.set_grad_enabled(False)
        return x.sin()

    graph_module = captured(hopyard.make_fx, program, mode, inputs())
    assert torch.is_grad_enabled()
    try:
        graph_module(inputs())
        assert not torch.is_grad_enabled()
    finally:
        torch.set_grad_enabled(True)


def test_leaving_a_region_entered_outside_is_refused(mode: str) -> None:
    region = torch.autocast("cpu", dtype=torch.bfloat16)

    def program(x: Tensor) -> Tensor:
        region.__exit__(None, None, None)
        return x.sin()

    before = surroundings()
    region.__enter__()
    with pytest.raises(UnsupportedError, match="has not entered") as caught:
        captured(hopyard.make_fx, program, mode, inputs())
    assert caught.value.location is not None
    assert surroundings() == before


def test_captures_within_captures(mode: str) -> None:
    example = inputs()

    def program(x: Tensor) -> Tensor:
        inner = captured(hopyard.make_fx, without_grad, mode, example)
        cast = captured(hopyard.make_fx, cast_nested, mode, example)
        below = hopyard.make_fx(without_grad, tracing_mode=mode)(example)
        assert len(cast.graph.nodes) == 14
        assert len(inner.graph.nodes) == 9
        assert len(below.graph.nodes) == 5
        return x.reshape(-1)

    graph_module = captured(hopyard.make_fx, program, mode, inputs())
    assert [node.name for node in graph_module.graph.nodes] == ["x_1", "reshape", "output"]

    def outer(x: Tensor) -> Tensor:
        assert len(captured(hopyard.make_fx, without_grad, mode, example).graph.nodes) == 9
        return x.reshape(2, 8)

    graph_module = hopyard.make_fx(outer, tracing_mode=mode)(inputs())
    assert [node.name for node in graph_module.graph.nodes] == ["x_1", "view", "output"]


def test_captures_within_captures_of_torchs(mode: str) -> None:
    example = inputs()

    def program(x: Tensor) -> Tensor:
        inner = captured(hopyard.make_fx, without_grad, mode, example)
        assert len(inner.graph.nodes) == 9
        return x.reshape(-1)

    graph_module = captured(torch_make_fx, program, mode, inputs())
    assert [node.name for node in graph_module.graph.nodes] == ["x_1", "reshape", "output"]


def test_tracing_suspended_for_a_while(mode: str) -> None:
    def program(x: Tensor) -> Tensor:
        with hopyard.tracing.suspended(), torch.no_grad():
            size = torch.ones(3).reshape(-1).shape[0]
        return x * size

    graph_module = captured(hopyard.make_fx, program, mode, inputs())
    assert [node.name for node in graph_module.graph.nodes] == ["x_1", "mul", "output"]


def test_threads_do_not_find_each_others_mode(mode: str) -> None:
    programs = [composites, without_grad, cast_nested, branches_without_dynamo]
    expected = [captured(hopyard.make_fx, program, mode, inputs()).code for program in programs]
    examples = [inputs() for _ in programs]
    found: list[list[str]] = [[] for _ in programs]
    barrier = threading.Barrier(len(programs))

    def work(position: int) -> None:
        barrier.wait()
        for _ in range(5):
            make = hopyard.make_fx(programs[position], tracing_mode=mode, pre_dispatch=True)
            graph_module = make(examples[position])
            found[position].append(graph_module.code)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(programs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[code] * 5 for code in expected]


def test_another_threads_operators_are_not_recorded() -> None:
    results: list[Tensor] = []

    def program(x: Tensor) -> Tensor:
        def work() -> None:
            with enable_python_dispatcher():
                results.append(torch.ones(3).sin())

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        return x.cos()

    graph_module = captured(hopyard.make_fx, program, "real", inputs())
    assert [node.name for node in graph_module.graph.nodes] == ["x_1", "cos", "output"]
    assert torch.equal(results[0], torch.ones(3).sin())


@pytest.fixture
def exporting(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it exports, torch tells function modes about transforms."""
    monkeypatch.setattr(torch.compiler, "_is_exporting_flag", True)
