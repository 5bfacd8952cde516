"""Compilers keep regions, see what they mean, and refuse what a graph cannot hold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from regions import OPERATORS, sample
from torch import Tensor, nn
from torch.fx import GraphModule

from hopyard.errors import UnsupportedError
from hopyard.hops import Operator, bind, compiler_support
from hopyard.testing import check_hop
from hopyard.testing._compiled_surfaces import COMPILED_SURFACES
from hopyard.testing._hop_surfaces import Surface

# Inductor's own modules use what torch deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*:UserWarning:torch"
)

FAST = [surface for surface in COMPILED_SURFACES if not surface.slow]
X = torch.linspace(0.1, 1.2, 12).reshape(3, 4)
close = torch.testing.assert_close


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def plain(define: Any) -> Operator:
    return bind(define())


@pytest.fixture(params=["eager", "aot_eager"])
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


def whole(function: Callable[..., Any], backend: Any = "eager", **options: Any) -> Any:
    return torch.compile(function, backend=backend, fullgraph=True, **options)


def line_of(function: Any, offset: int) -> tuple[str, int]:
    return __file__, function.__code__.co_firstlineno + offset


def test_this_torch_has_what_it_takes() -> None:
    assert compiler_support() == ""


def test_what_a_torch_lacks_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "hopyard.hops.compiled._dynamo", None)
    monkeypatch.delattr("hopyard.hops.compiled._dynamo")
    assert torch.__version__ in compiler_support()
    verdicts = check_hop(OPERATORS["example"][0], [sample("example", "no closure")])
    told = {verdict.surface: verdict.problem for verdict in verdicts if verdict.problem}
    assert set(told) >= {"torch.compile", "torch.export, strict"}
    assert "eager" not in told
    assert all(torch.__version__ in problem for problem in told.values())


# Every surface and every kind of operator: make sweep-hops.
@pytest.mark.parametrize("surface", FAST, ids=[each.name for each in FAST])
@pytest.mark.parametrize("name", OPERATORS)
def test_every_kind_of_operator_under_compilers(name: str, surface: Surface) -> None:
    surface.check(OPERATORS[name][0], sample(name, "closure"))


def test_compiled_code_is_not_used_for_another_operator(
    region: Operator, plain: Operator, backend: str
) -> None:
    """All operators are of one type, which is all that Dynamo guards on by itself."""
    compiled = whole(lambda x, operator: operator(torch.sin, x), backend)
    close(compiled(X, region), 2 * X.sin())
    close(compiled(X, plain), X.sin())


def test_compiled_code_is_not_used_for_another_configuration(
    region: Operator, backend: str
) -> None:
    settings = SimpleNamespace(factor=2.0, options={"a": [1, 2]})
    seen = []

    def program(x: Tensor) -> Tensor:
        return region(torch.sin, x, factor=settings.factor, options=settings.options)

    def keep(graph_module: GraphModule, inputs: Any) -> Any:
        (call,) = graph_module.graph.find_nodes(op="call_function", target=region)
        seen.append((call.kwargs["factor"], dict(call.kwargs["options"])))
        return graph_module

    compiled = whole(program, keep)
    close(compiled(X), 2 * X.sin())
    settings.factor = 5.0
    close(compiled(X), 5 * X.sin())
    settings.options["a"] = [1, 3]
    compiled(X)
    settings.options["b"] = True
    compiled(X)
    compiled(X)
    assert seen == [
        (2.0, {"a": [1, 2]}),
        (5.0, {"a": [1, 2]}),
        (5.0, {"a": [1, 3]}),
        (5.0, {"a": [1, 3], "b": True}),
    ]


def test_compiled_code_takes_what_a_body_captures_anew(region: Operator, backend: str) -> None:
    def program(x: Tensor, captured: Any) -> Tensor:
        return region(lambda value: value * captured, x)

    compiled = whole(program, backend)
    for captured in (torch.ones(4), torch.zeros(4), torch.randn(3, 1), 2.0, 3.0):
        close(compiled(X, captured), program(X, captured))


def test_gradients_of_what_only_the_body_captures(region: Operator, backend: str) -> None:
    layer, twin = nn.Linear(4, 4), nn.Linear(4, 4)
    twin.load_state_dict(layer.state_dict())
    whole(lambda x: region(layer, x), backend)(X).sum().backward()
    region(twin, X).sum().backward()
    close([each.grad for each in layer.parameters()], [each.grad for each in twin.parameters()])


def test_regions_in_regions_train(region: Operator, plain: Operator, backend: str) -> None:
    captured = torch.ones(4, requires_grad=True)

    def program(x: Tensor) -> Tensor:
        def inner(value: Tensor) -> Tensor:
            return plain(lambda deepest: deepest.sin() * captured * x, value)

        return region(lambda value: region(inner, value) + captured, x)

    results = []
    for function in (program, whole(program, backend)):
        x = X.clone().requires_grad_()
        result = function(x)
        results.append([result, *torch.autograd.grad(result.sum(), (x, captured))])
    close(results[0], results[1])


def test_sizes_that_are_dynamic_stay_so(plain: Operator, backend: str) -> None:
    def program(x: Tensor) -> Tensor:
        return plain(lambda value: value * x.shape[0], x)

    x = torch.randn(5, 4)
    torch._dynamo.mark_dynamic(x, 0)
    compiled = whole(program, backend)
    close(compiled(x), x * 5)
    with torch.compiler.set_stance("fail_on_recompile"):
        other = torch.randn(9, 4)
        close(compiled(other), other * 9)


def test_values_that_only_a_run_tells(plain: Operator, region: Operator, backend: str) -> None:
    def body(x: Tensor) -> Tensor:
        return x.nonzero().sum() * x.sum().item()

    with torch._dynamo.config.patch(
        capture_dynamic_output_shape_ops=True, capture_scalar_outputs=True
    ):
        for operator in (plain, region):
            compiled = whole(lambda x, operator=operator: operator(body, x), backend)
            for x in (X, X.round()):
                close(compiled(x), operator(body, x))


def test_autocast_and_grad_modes_around_and_within(plain: Operator, backend: str) -> None:
    def body(x: Tensor) -> Any:
        doubled = x * 2
        with torch.no_grad():
            apart = x.sin()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return doubled * apart, apart, x @ x.t()

    def program(x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return *plain(body, x), plain(torch.mm, x, x.t())

    results = []
    for function in (program, whole(program, backend)):
        x = X.clone().requires_grad_()
        outputs = function(x)
        kinds = [(each.dtype, each.requires_grad) for each in outputs]
        gradient = torch.autograd.grad(outputs[0].sum() + outputs[3].float().sum(), x)
        results.append((kinds, gradient))
    assert results[0][0] == results[1][0]
    close(results[0][1], results[1][1])


def test_a_default_device_applies_to_a_body(plain: Operator, backend: str) -> None:
    with torch.device("meta"):
        compiled = whole(lambda x: plain(lambda value: torch.ones(2), x), backend)
        assert compiled(X).device.type == "meta"


def test_transforms_within_what_is_compiled(region: Operator) -> None:
    def program(x: Tensor) -> Any:
        return (
            torch.vmap(lambda row: region(torch.sin, row))(x),
            torch.func.grad(lambda value: region(torch.sin, value).sum())(x),
        )

    close(whole(program)(X), program(X))


class Pair(NamedTuple):
    value: Tensor
    count: int


@pytest.mark.parametrize(
    "body",
    [
        lambda x: {"a": [x.sin(), 2.5], "b": (None, "text", x)},
        lambda x: Pair(x.sin(), 3),
        lambda x: [Pair(x, 1), x.cos()],
        lambda x: (made := x.sin(), made),
        lambda x: x,
        lambda x: None,
        lambda x: x.shape[0] + 1,
    ],
    ids=["containers", "named tuple", "named tuple within", "twice", "itself", "none", "number"],
)
def test_a_body_may_return(body: Callable[[Tensor], Any], plain: Operator, backend: str) -> None:
    def program(x: Tensor) -> Any:
        return plain(body, x)

    found, meant = whole(program, backend)(X), body(X)
    assert type(found) is type(meant)
    assert torch.utils._pytree.tree_structure(found) == torch.utils._pytree.tree_structure(meant)
    close(
        [each for each in torch.utils._pytree.tree_leaves(found) if isinstance(each, Tensor)],
        [each for each in torch.utils._pytree.tree_leaves(meant) if isinstance(each, Tensor)],
    )


def test_a_result_that_was_given_is_what_was_given(plain: Operator, backend: str) -> None:
    def program(x: Tensor) -> Tensor:
        same, made = plain(lambda value: (value, value.sin()), x)
        same.add_(1)
        return made

    x = X.clone()
    close(whole(program, backend)(x), X.sin())
    close(x, X + 1)


def test_an_announced_write_happens(define: Any, backend: str) -> None:
    writing = bind(define(writes=True))

    def program(x: Tensor) -> Tensor:
        writing(lambda value: value.mul_(2).sum(), x)
        return x + 1

    x = X.clone()
    close(whole(program, backend)(x), X * 2 + 1)
    close(x, X * 2)


def test_a_program_in_parts_keeps_its_region(plain: Operator, capsys: Any) -> None:
    graphs = []

    def keep(graph_module: GraphModule, inputs: Any) -> Any:
        graphs.append(graph_module)
        return graph_module

    def program(x: Tensor) -> Tensor:
        x = x + 1
        print("outside")
        return plain(torch.sin, x)

    close(torch.compile(program, backend=keep)(X), (X + 1).sin())
    assert capsys.readouterr().out == "outside\n"
    calls = [len(each.graph.find_nodes(op="call_function", target=plain)) for each in graphs]
    assert calls == [0, 1]


def test_an_exception_of_the_body_reaches_its_handler(plain: Operator, backend: str) -> None:
    def failing(x: Tensor) -> Tensor:
        raise ValueError("inside")

    def program(x: Tensor) -> Tensor:
        try:
            return plain(failing, x)
        except ValueError:
            return x + 1

    close(torch.compile(program, backend=backend)(X), X + 1)
    with pytest.raises(ValueError, match="inside"):
        torch.compile(lambda x: plain(failing, x), backend=backend)(X)
    close(whole(lambda x: plain(torch.sin, x), backend)(X), X.sin())


def prints(x: Tensor) -> Tensor:
    doubled = x * 2
    print("seen")
    return doubled


def branches(x: Tensor) -> Tensor:
    if x.sum() > 0:
        return x + 1
    return x


def reads_a_file(x: Tensor) -> Tensor:
    return x * len(Path(__file__).read_text())


def writes(x: Tensor) -> Tensor:
    doubled = x * 2
    x.add_(1)
    return doubled


def assigns(x: Tensor) -> Tensor:
    doubled = x * 2
    x[0] = 1
    return doubled


def views(x: Tensor) -> Tensor:
    return x.view(-1)


KEPT: list[int] = []


def remembers(x: Tensor) -> Tensor:
    KEPT.append(1)
    return x * 2


REFUSED = [
    (prints, 2, "print"),
    (branches, 1, "branching"),
    (reads_a_file, 1, "graph"),
    (writes, 2, "operand 0 in place"),
    (assigns, 2, "operand 0 in place"),
    (views, 1, "memory of operand 0"),
    (remembers, 1, "side effect"),
]


@pytest.mark.parametrize("fullgraph", [True, False], ids=["whole", "parts"])
@pytest.mark.parametrize(("body", "offset", "word"), REFUSED, ids=lambda each: str(each)[:20])
def test_what_a_graph_cannot_hold_is_refused_at_its_line(
    body: Any, offset: int, word: str, fullgraph: bool, plain: Operator, capsys: Any
) -> None:
    x = X.clone()
    compiled = torch.compile(lambda value: plain(body, value), backend="eager", fullgraph=fullgraph)
    with pytest.raises(UnsupportedError, match=word) as raised:
        compiled(x)
    error = raised.value
    assert (error.location.file, error.location.line) == line_of(body, offset)
    assert error.stage == plain.name()
    assert error.hint
    assert capsys.readouterr().out == ""
    assert KEPT == []
    close(x, X)
    close(whole(lambda value: plain(torch.sin, value))(X), X.sin())


def test_what_cannot_be_an_operand_is_refused(region: Operator) -> None:
    class Thing:
        pass

    def with_a_thing(x: Tensor) -> Tensor:
        return region(lambda value, thing: value, x, Thing())

    def with_a_tensor(x: Tensor) -> Tensor:
        return region(torch.sin, x, factor=x.sum())

    for program, word in ((with_a_thing, "Thing"), (with_a_tensor, "'factor'")):
        with pytest.raises(UnsupportedError, match=word) as raised:
            whole(program)(X)
        assert (raised.value.location.file, raised.value.location.line) == line_of(program, 1)


def test_captures_of_an_operator_with_fixed_operands_are_refused(define: Any) -> None:
    fixed = bind(define(lambda body, x: body(x)))
    captured = torch.ones(4)
    with pytest.raises(UnsupportedError, match="fixed number"):
        whole(lambda x: fixed(lambda value: value * captured, x))(X)


def test_a_body_that_calls_itself_is_refused(plain: Operator) -> None:
    def endless(x: Tensor) -> Tensor:
        return plain(endless, x)

    with pytest.raises(UnsupportedError, match="call itself") as raised:
        whole(lambda x: plain(endless, x))(X)
    assert (raised.value.location.file, raised.value.location.line) == line_of(endless, 1)


def test_threads_compile_at_the_same_time(region: Operator) -> None:
    failures: list[BaseException] = []
    compiled = whole(lambda x, factor: region(lambda value: value * factor, x))

    def work(factor: float) -> None:
        try:
            for _ in range(5):
                close(compiled(X, factor), 2 * X * factor)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(float(factor),)) for factor in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_an_operator_without_a_body(operator: Operator, backend: str) -> None:
    graphs = []

    def keep(graph_module: GraphModule, inputs: Any) -> Any:
        graphs.append(graph_module)
        return graph_module

    close(whole(lambda x: operator(x, x, factor=3.0), keep)(X), 3 * X * X.sin())
    assert len(graphs[0].graph.find_nodes(op="call_function", target=operator)) == 1
    close(whole(lambda x: operator(x, x, factor=3.0), backend)(X), 3 * X * X.sin())


def test_an_authors_rule_reads_the_call(define: Any) -> None:
    def rule(call: Any, translator: Any, args: Any, kwargs: Any) -> Any:
        """Keep the call, whatever the configuration was."""
        return call.record(translator, args, {})

    hop = bind(define(lambda body, x, factor=2.0: factor * body(x), rules={"dynamo": rule}))
    close(whole(lambda x: hop(torch.sin, x, factor=7.0))(X), 2 * X.sin())


# Inductor


def test_inductor_sees_the_operators_of_a_region_and_trains(region: Operator) -> None:
    from torch._dynamo.utils import counters

    captured = torch.ones(4, requires_grad=True)

    def program(x: Tensor) -> Tensor:
        return region(lambda value: (value * captured).sin(), x)

    counters.clear()
    result = torch.compile(program, fullgraph=True)(X)
    result.sum().backward()
    meant = torch.autograd.grad(program(X).sum(), captured)
    close((captured.grad,), meant)
    # The region is inlined before Inductor caches anything, and its operators are the key.
    assert counters["inductor"]["fxgraph_cache_bypass"] == 0


def test_an_authors_lowering_is_used_and_not_cached(define: Any) -> None:
    from torch._dynamo.utils import counters

    lowered = []

    def rule(body: Any, x: Any, *, factor: float) -> Any:
        from torch._inductor.lowering import lowerings

        lowered.append(factor)
        return lowerings[torch.ops.aten.mul.Tensor](body(x), factor)

    hop = bind(define(lambda body, x, factor: factor * body(x), rules={"inductor": rule}))
    counters.clear()
    for factor in (2.0, 3.0):
        compiled = torch.compile(lambda x, factor=factor: hop(torch.sin, x, factor=factor))
        close(compiled(X), factor * X.sin())
        torch.compiler.reset()
    assert lowered == [2.0, 3.0]
    assert counters["inductor"]["fxgraph_cache_bypass"] == 2


def test_caches_serve_no_stale_body(define: Any) -> None:
    """Two definitions that differ in what nobody can hash."""
    results = []
    for factor in (2.0, 5.0):
        torch.compiler.reset()
        hop = bind(define(lambda body, x, factor=factor: factor * body(x)))
        results.append(torch.compile(lambda x, hop=hop: hop(torch.sin, x))(X))
    close(results, [2 * X.sin(), 5 * X.sin()])
    assert not hop.cacheable()
    assert bind(define()).cacheable()


def test_a_region_in_a_graph_that_inductor_is_given(region: Operator) -> None:
    """By a pass of its own, say: no tracer is asked any more."""
    from torch._inductor.compile_fx import compile_fx_inner
    from torch._inductor.virtualized import V
    from torch.fx.experimental.proxy_tensor import make_fx

    from hopyard.hops.compiled._inductor import register

    with torch._subclasses.FakeTensorMode() as mode, torch.no_grad():
        fake = mode.from_tensor(X)
        graph_module = make_fx(lambda x: (region(lambda value: region(torch.sin, value), x),))(fake)
    assert len(graph_module.graph.find_nodes(op="call_function", target=region)) == 1
    register(region)
    with V.set_fake_mode(mode):
        compiled = compile_fx_inner(graph_module, [fake])
    close(compiled([X]), [4 * X.sin()])
