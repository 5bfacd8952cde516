"""What operators and regions cost, and what a cost says it leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sympy
import torch
from torch import Tensor, nn
from torch._higher_order_ops.map import map as map_over
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.fx import GraphModule, symbolic_trace
from torch.utils import flop_counter

import hopyard
from hopyard.analysis import (
    Call,
    Cost,
    Gap,
    Region,
    TensorSpec,
    cost_of,
    cost_of_call,
    cost_of_node,
    formula_for,
    written,
)
from hopyard.analysis._decomposing import decomposed
from hopyard_hookspecs import Hop, hookimpl

pytestmark = pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec")

PRODUCT = 2 * 4 * 4 * 4
"""Operations of a product of two matrices of four by four."""


def traced(function: Callable[..., Any], *args: Any) -> GraphModule:
    return hopyard.make_fx(function, tracing_mode="fake")(*args)


def spec(*shape: Any, dtype: torch.dtype = torch.float32) -> TensorSpec:
    return TensorSpec.of(torch.empty(shape, dtype=dtype, device="meta"))


def square(a: Tensor) -> Tensor:
    return a @ a


ONES = torch.ones(4, 4)

MOVED: list[tuple[str, Callable[..., Any], tuple[Any, ...], int, int]] = [
    ("pointwise", lambda a, b: a + b, (ONES, ONES), 128, 64),
    ("precision", lambda a: a.half(), (ONES,), 64, 32),
    ("reduction", lambda a: a.sum(), (ONES,), 64, 4),
    ("views", lambda a: a.t()[1:].unsqueeze(0).expand(9, 3, 4), (ONES,), 0, 0),
    ("expanded operand", lambda a: a[:1].expand(4, 4) + 1, (ONES,), 16, 64),
    ("broadcast operand", lambda a, b: a + b, (ONES, ONES[0]), 80, 64),
    ("in place", lambda a: a.clone().add_(1), (ONES,), 128, 128),
    ("overwriting", lambda a, b: a.copy_(b), (ONES.clone(), ONES), 64, 64),
    ("filling", lambda a: a.fill_(2.0), (ONES.clone(),), 0, 64),
    ("creation", lambda a: (a.new_zeros(2, 4), torch.full_like(a, 3)), (ONES,), 0, 32 + 64),
    ("memory as it is", lambda a: torch.empty(2, 4), (ONES,), 0, 0),
    ("several results", lambda a: torch.max(a, 0)[1], (ONES,), 64, 16 + 32),
    ("list of operands", lambda a: torch.cat([a, a, a]), (ONES,), 192, 192),
    (
        "look-up",
        lambda table, index: nn.functional.embedding(index, table),
        (torch.ones(1000, 4), torch.tensor([1, 2])),
        2 * 4 * 4 + 2 * 8,
        2 * 4 * 4,
    ),
    ("indexing", lambda a, i: a[i], (ONES, torch.tensor([1])), 16 + 8, 16),
    ("product", square, (ONES,), 128, 64),
]


@pytest.mark.parametrize(
    ("function", "args", "read", "written"), [c[1:] for c in MOVED], ids=[c[0] for c in MOVED]
)
def test_bytes_are_those_of_distinct_elements(
    function: Callable[..., Any], args: tuple[Any, ...], read: int, written: int
) -> None:
    total = cost_of(traced(function, *args)).total
    assert (total.read, total.written) == (read, written)
    assert total.moved == read + written


def two_products(a: Tensor) -> tuple[Tensor, ...]:
    return (a @ a @ a,)


def one_product(a: Tensor) -> tuple[Tensor, ...]:
    return (a @ a,)


def scanned(a: Tensor) -> Any:
    return scan(lambda state, x: (state @ x, x.clone()), a[0], a)


REGIONS: list[tuple[str, Callable[..., Any], Tensor, int]] = [
    (
        "the costlier branch",
        lambda a: torch.cond(a.sum() > 0, one_product, two_products, (a,)),
        ONES,
        2 * PRODUCT,
    ),
    (
        "the first branch",
        lambda a: torch.cond(a.sum() > 0, two_products, one_product, (a,)),
        ONES,
        2 * PRODUCT,
    ),
    (
        "a branch in a branch",
        lambda a: torch.cond(
            a.sum() > 0,
            lambda b: (torch.cond(b.sum() > 0, two_products, one_product, (b @ b,))[0],),
            one_product,
            (a,),
        ),
        ONES,
        3 * PRODUCT,
    ),
    ("each slice", lambda a: map_over(square, a), torch.ones(5, 4, 4), 5 * PRODUCT),
    ("each step", scanned, torch.ones(3, 4, 4), 3 * PRODUCT),
]


@pytest.mark.parametrize(
    ("function", "operand", "flops"), [c[1:] for c in REGIONS], ids=[c[0] for c in REGIONS]
)
def test_a_region_costs_what_runs_in_it(
    function: Callable[..., Any], operand: Tensor, flops: int
) -> None:
    report = cost_of(hopyard.Session(discover=False).capture(function, (operand,)))
    assert report.total.flops == flops
    assert not report.gaps
    assert sum(row.cost.flops for row in report.operators) == flops


def test_what_decides_how_often_a_loop_runs_is_not_known() -> None:
    class Looping(nn.Module):
        def forward(self, a: Tensor) -> Any:
            return while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, x @ x), (torch.tensor(0), a))

    report = cost_of(torch.export.export(Looping(), (ONES,)))
    (gap,) = report.gaps
    assert "one iteration is counted" in gap.reason
    assert report.total.flops == PRODUCT


def test_a_scan_that_is_associative_combines_at_least_once_less_than_there_are_elements() -> None:
    body = Region((Call(torch.ops.aten.mm.default, (spec(4, 4), spec(4, 4)), {}, spec(4, 4)),))
    operands = (body, [spec(7, 4, 4)], ())
    cost = cost_of_call(Call(torch.ops.higher_order.associative_scan, operands))
    assert cost.total.flops == 6 * PRODUCT
    assert "how often it combines" in cost.gaps[0].reason


def test_an_operator_that_is_called_by_another_counts() -> None:
    wrapped = torch.ops.higher_order.out_dtype
    operands = (torch.ops.aten.mm.default, torch.int32, spec(4, 4), spec(4, 4))
    assert cost_of_call(Call(wrapped, operands, {}, spec(4, 4))).total.flops == PRODUCT


def test_calls_in_a_loop_are_counted_as_often_as_they_run() -> None:
    report = cost_of(traced(lambda a: map_over(square, a), torch.ones(5, 4, 4)))
    (row,) = (row for row in report.operators if row.cost.flops)
    assert row.calls == 5
    (loop,) = (call for call in report.calls if call.inner)
    assert loop.own == Cost()
    assert loop.total.flops == 5 * PRODUCT
    (node,) = (node for node, cost in report.costs_by_node().items() if cost.flops)
    assert cost_of_node(node).total == loop.total


PLAIN = Hop("test_costs__plain")
REPEATING = Hop("test_costs__repeating", eager=lambda body, a: body(body(a)))


class Plugin:
    @hookimpl
    def hopyard_register_hops(self) -> list[Hop]:
        return [PLAIN, REPEATING]


@pytest.mark.parametrize("name", ["plain", "repeating"])
def test_a_region_of_ones_own_runs_once_unless_its_author_says_otherwise(name: str) -> None:
    session = hopyard.Session(discover=False, plugins=[Plugin()])
    operator = session.hop(f"test_costs__{name}")
    report = cost_of(session.capture(lambda a: operator(square, a), (ONES,)))
    assert report.total.flops == PRODUCT
    reasons = [gap.reason for gap in report.gaps]
    assert reasons == ([] if name == "plain" else ["each of its regions is assumed to run once"])


def test_a_delegate_costs_what_it_was_lowered_from() -> None:
    delegate = pytest.importorskip(
        "hopyard_executorch_delegate._plugin", reason="its plugin is not installed"
    )
    session = hopyard.Session(discover=False, plugins=[delegate])
    program = session.capture(lambda a: (a @ a).relu(), (ONES,))
    lowered = session.run("delegate{backend=reference}", program).program
    before, after = cost_of(program), cost_of(lowered)
    assert "executorch_delegate__call_delegate" in [each.call.operator for each in after.calls]
    assert after.total == before.total
    assert not after.gaps


@torch.library.custom_op("test_costs::twice", mutates_args=())
def twice(a: Tensor) -> Tensor:
    return a * 2


@twice.register_fake
def _(a: Tensor) -> Tensor:
    return torch.empty_like(a)


CUSTOM = torch.ops.test_costs.twice


def test_an_operator_without_a_formula_is_said_not_to_be_counted() -> None:
    report = cost_of(traced(lambda a: twice(twice(a)), ONES))
    gap = Gap("test_costs.twice.default", "there is no formula for it")
    assert report.gaps == {gap: 2}
    assert report.total == Cost(0, 128, 128)
    assert f"not counted: {gap} (2 x)" in report.lines()
    assert report.data()["gaps"][0]["places"] == 2


@pytest.mark.parametrize("key", [CUSTOM, CUSTOM.default], ids=["packet", "overload"])
def test_a_formula_may_be_given(key: Any) -> None:
    def formula(a: TensorSpec, *, out_val: TensorSpec) -> Any:
        return a.shape[0] * out_val.shape[1]

    report = cost_of(traced(lambda a: twice(twice(a)), ONES), formulas={key: formula})
    assert report.total.flops == 2 * 16
    assert not report.gaps


def test_a_formula_that_is_registered_with_torch_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    graph_module = traced(lambda a: twice(a), ONES)
    monkeypatch.setattr(flop_counter, "flop_registry", flop_counter.flop_registry)
    flop_counter.register_flop_formula(CUSTOM)(lambda shape, out_shape=None: shape[0] * 100)
    try:
        assert cost_of(graph_module).total.flops == 400
    finally:
        del flop_counter.flop_registry[CUSTOM]
    assert cost_of(graph_module).total.flops == 0


def test_a_formula_that_fails_is_named() -> None:
    def formula(a: TensorSpec, *, out_val: TensorSpec) -> int:
        raise ValueError("no such luck")

    (gap,) = cost_of(traced(lambda a: twice(a), ONES), {CUSTOM: formula}).gaps
    assert gap.reason == "its formula failed: no such luck"


@pytest.mark.parametrize(
    "function", [torch.linalg.inv, torch.linalg.svd, torch.fft.fft, lambda a: torch.cdist(a, a)]
)
def test_torch_s_own_without_a_formula_are_named_too(function: Callable[..., Any]) -> None:
    report = cost_of(traced(function, ONES + torch.eye(4)))
    assert [gap.reason for gap in report.gaps] == ["there is no formula for it"]


@pytest.mark.parametrize(
    "function",
    [
        torch.linalg.vector_norm,
        lambda a: nn.functional.layer_norm(a, (4,)),
        lambda a: a.softmax(0).cumsum(0).sort(0)[0].topk(2)[1],
        lambda a: nn.functional.interpolate(a[None, None], scale_factor=2, mode="bilinear"),
        lambda a: torch.fft.fftshift(a),
    ],
)
def test_work_that_grows_with_the_bytes_is_none(function: Callable[..., Any]) -> None:
    report = cost_of(traced(function, ONES))
    assert not report.gaps
    assert report.total.flops == 0
    assert report.total.moved > 0


def test_an_operator_that_decomposes_into_itself_is_taken_as_it_is() -> None:
    operands = (spec(2, 3, 4, 4), spec(3), spec(3), spec(3), spec(3), True, 0.1, 1e-5)
    call = Call(torch.ops.aten.native_batch_norm.default, operands, {}, (spec(2, 3, 4, 4),))
    assert decomposed(call) is None
    assert cost_of_call(call).gaps == ()


def test_graphs_that_do_not_know_sizes_say_so() -> None:
    report = cost_of(symbolic_trace(lambda a: torch.relu(a) @ a.neg()))
    assert report.total == Cost()
    assert {gap.operator for gap in report.gaps} == {"relu", "Tensor.neg", "matmul"}
    graph_module = traced(square, ONES)
    (node,) = graph_module.graph.find_nodes(op="call_function", target=torch.ops.aten.mm.default)
    del node.meta["val"]
    assert [gap.reason for gap in cost_of(graph_module).gaps] == [
        "the sizes of its results are not known"
    ]


def test_sparse_tensors_have_no_bytes() -> None:
    sparse = torch.eye(4).to_sparse()
    call = Call(torch.ops.aten.neg.default, (TensorSpec.of(sparse),), {}, TensorSpec.of(sparse))
    cost = cost_of_call(call)
    assert cost.own == Cost()
    assert [gap.reason for gap in cost.gaps] == [
        "its bytes are not counted, since a tensor is not dense"
    ]


@pytest.fixture(scope="module")
def dynamic() -> torch.export.ExportedProgram:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)
            self.linear = nn.Linear(4, 5)

        def forward(self, x: Tensor) -> Tensor:
            features = self.convolution(x).flatten(2).transpose(1, 2)
            attended = nn.functional.scaled_dot_product_attention(features, features, features)
            return self.linear(attended) @ attended.new_ones(5, 2)

    size = torch.export.Dim.DYNAMIC
    return torch.export.export(
        Model().eval(), (torch.randn(2, 3, 8, 9),), dynamic_shapes=({0: size, 2: size, 3: size},)
    )


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.parametrize("shape", [(2, 3, 8, 9), (5, 3, 11, 4)])
def test_symbolic_sizes_give_expressions(
    dynamic: torch.export.ExportedProgram, decomposed: bool, shape: tuple[int, ...]
) -> None:
    exported = dynamic.run_decompositions({}) if decomposed else dynamic
    report = cost_of(exported)
    assert not report.gaps
    (given,) = (node for node in exported.graph.nodes if node.name == "x")
    sizes = {
        size.node.expr: actual
        for size, actual in zip(given.meta["val"].shape, shape, strict=True)
        if isinstance(size, torch.SymInt)
    }
    assert len(sizes) == 3
    static = torch.export.export(dynamic.module(check_guards=False), (torch.randn(shape),))
    expected = cost_of(static.run_decompositions({}) if decomposed else static).total
    for name in ("flops", "read", "written"):
        amount = getattr(report.total, name)
        assert isinstance(amount, sympy.Expr)
        assert amount.subs(sizes) == getattr(expected, name)
    assert written(report.total.flops, "FLOP") in report.lines()[0]


def test_counting_adds_no_guards(dynamic: torch.export.ExportedProgram) -> None:
    (given,) = (node for node in dynamic.graph.nodes if node.name == "x")
    environment = given.meta["val"].fake_mode.shape_env
    guards, versions = len(environment.guards), environment._version_counter
    cost_of(dynamic)
    assert (len(environment.guards), environment._version_counter) == (guards, versions)


def test_branches_of_symbolic_cost_are_weighed_where_they_differ() -> None:
    # Once control flow was called under a mode, torch cannot export any before this.
    torch._dynamo.reset()

    class Model(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Any:
            return torch.cond(
                x.sum() > 0, lambda a, b: (a @ a.t()).sum(), lambda a, b: (b.t() @ b).sum(), (x, y)
            )

    rows = {0: torch.export.Dim.DYNAMIC}
    exported = torch.export.export(
        Model(), (torch.ones(6, 3), torch.ones(7, 5)), dynamic_shapes=(rows, rows)
    )
    given = exported.graph.find_nodes(op="placeholder")
    symbols = [node.meta["val"].shape[0].node.expr for node in given]
    flops = cost_of(exported).total.flops
    for first, second in ((2, 9), (50, 3), (10, 12)):
        value = flops.subs(dict(zip(symbols, (first, second), strict=True)))
        assert value == max(2 * first * first * 3, 2 * 5 * 5 * second)


def test_modules_cost_what_is_called_in_them() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).relu())

    model = nn.Sequential(Block(), nn.Linear(4, 2), Block())
    exported = torch.export.export(model[:2], (torch.ones(3, 4),)).run_decompositions({})
    rows = {row.name: row for row in cost_of(exported).modules}
    assert {name: (row.kind, row.cost.flops) for name, row in rows.items()} == {
        "": ("Sequential", 2 * 96 + 48),
        "0": ("Block", 192),
        "0.first": ("Linear", 96),
        "0.second": ("Linear", 96),
        "1": ("Linear", 48),
    }
    assert cost_of(exported).total == rows[""].cost


def test_an_operator_has_a_formula_or_none() -> None:
    assert formula_for(torch.ops.aten.mm.default) is not None
    assert formula_for(torch.ops.aten.add.Tensor) is None
    assert formula_for(CUSTOM.default) is None


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (1234, "1.23 kB"),
        (999_900, "1 MB"),
        (123_456, "123 kB"),
        (10**15, "1000 TB"),
        (sympy.Symbol("s0") * 4, "4*s0 B"),
    ],
)
def test_amounts_are_written_in_powers_of_a_thousand(number: Any, text: str) -> None:
    assert written(number, "B") == text


def test_a_call_needs_no_graph() -> None:
    cost = cost_of_call(Call(torch.ops.aten.mm.default, (spec(2, 3), spec(3, 5)), {}, spec(2, 5)))
    assert cost.total == Cost(60, 4 * (6 + 15), 4 * 10)
