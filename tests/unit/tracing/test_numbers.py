"""Symbolic numbers in graphs: where they are computed, by which nodes, and which of them stay."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard import tracing
from hopyard.testing import assert_same_assumptions, assert_same_graph

aten = torch.ops.aten

QUERIES: dict[str, Callable[[Tensor], Any]] = {
    "size": aten.size.default,
    "size-int": lambda x: aten.size.int(x, 1),
    "sym_size": aten.sym_size.default,
    "sym_size-int": lambda x: aten.sym_size.int(x, 1),
    "stride": aten.stride.default,
    "stride-int": lambda x: aten.stride.int(x, 0),
    "sym_stride": aten.sym_stride.default,
    "sym_stride-int": lambda x: aten.sym_stride.int(x, 0),
    "numel": aten.numel.default,
    "sym_numel": aten.sym_numel.default,
    "storage_offset": aten.storage_offset.default,
    "sym_storage_offset": aten.sym_storage_offset.default,
    "dim": aten.dim.default,
    "is_contiguous": aten.is_contiguous.default,
    "is_contiguous-as": lambda x: aten.is_contiguous.memory_format(x, torch.contiguous_format),
    "is_strides_like": lambda x: aten.is_strides_like_format.default(x, torch.channels_last),
    "is_non_overlapping": aten.is_non_overlapping_and_dense.default,
    "is_same_size": lambda x: aten.is_same_size.default(x, x),
}


@pytest.mark.parametrize("function_mode", [True, False])
@pytest.mark.parametrize("pre_dispatch", [False, True])
@pytest.mark.parametrize("query", QUERIES)
def test_operators_that_ask_for_numbers(
    query: str, pre_dispatch: bool, function_mode: bool, mode: str
) -> None:
    def function(x: Tensor) -> Any:
        y = x.t()[1:]
        return QUERIES[query](x), QUERIES[query](y), y + 1

    def capture(make: Any) -> Any:
        return make(
            function,
            tracing_mode=mode,
            pre_dispatch=pre_dispatch,
            _disable_torch_fn_metadata_mode=not function_mode,
        )(torch.ones(4, 6))

    try:
        expected = capture(torch_make_fx)
    except Exception:  # noqa: BLE001
        with pytest.raises(hopyard.errors.CaptureError):
            capture(hopyard.make_fx)
        return
    actual = capture(hopyard.make_fx)
    assert_same_graph(actual, expected)
    assert_same_assumptions(actual, expected)
    assert actual.code == expected.code


def multiplies_by_one(x: Tensor) -> Any:
    one = x[:1].shape[0]
    return [x.shape[0] * 1, 1 * x.shape[1], x.shape[0] * one, x.numel() * 1 * 2, x.shape[0] * 1.0]


def sums_up(x: Tensor) -> Any:
    a, b = x.shape
    sums = [torch.sym_sum([a, b, 3]), torch.sym_sum([a, a, b]), torch.sym_sum([a]), sum(x.shape)]
    return [*sums, torch.sym_sum([1, 2]), x.new_zeros(torch.sym_sum([a, b, a * b]))]


def takes_the_largest(x: Tensor) -> Any:
    a, b = x.shape
    nested = torch.sym_max(torch.sym_max(a, b), torch.sym_min(a + 1, b * 2))
    return x.new_zeros(nested), torch.sym_max(a, 3), torch.sym_min(7, b), max(a, b), min(a, b)


def largest_of_three_rebuilt(x: Tensor, y: Tensor, z: Tensor) -> Any:
    sizes = x.shape[0], y.shape[0], z.shape[0]
    largest = torch.sym_max(torch.sym_max(*sizes[:2]), sizes[2])
    smallest = torch.sym_min(torch.sym_min(*sizes[:2]), sizes[2])
    values = x.new_empty(largest + 1, smallest)
    return values.view(-1).fill_(1), values.t().reshape(-1, 1) * 2


def asks_a_later_tensor_first(x: Tensor) -> Any:
    y = x.sin().view(-1).view(x.shape)
    z = y * 2
    return z.shape[0], y.shape[1], x.shape[0], z.view(-1).shape[0], z.new_zeros(z.shape[0])


def computes_twice(x: Tensor) -> Any:
    first = x.new_zeros(x.shape[0] * 2 + x.shape[1])
    second = x.new_ones(x.shape[1] + x.shape[0] * 2)
    return first, second, x.sin().shape[0] * 2, (x.shape[0] + x.shape[0])


def computes_in_vain(x: Tensor) -> Any:
    unused = x.shape[0] * 2 + 1
    kept = x.shape[1] * 3
    _ = unused // 2, unused == 4, float(unused), x.stride(), x.numel()
    return x.new_zeros(kept)


def reads_in_vain(x: Tensor) -> Any:
    x.sum().item()
    number = x.long()[0, 0].item()
    _ = number * 2 + x.shape[0]
    return x.sin()


def returns_what_became_known(x: Tensor) -> Any:
    size = x.shape[0]
    double = size * 2
    assert size == 4
    return size, double, x.shape[0], [size, {"double": double}], x.new_zeros(double)


def computes_before_it_reads(x: Tensor) -> Any:
    return torch.add(torch.ones(1), x, alpha=x.shape[0] * 3), x * torch.ones(2 * x.shape[1] - 6)


def other_kinds_of_numbers(x: Tensor) -> Any:
    a, b = x.shape
    return [
        torch.sym_float(a) / b,
        torch.sym_not(a == b + 1),
        (a > 2) & (b > 2),
        torch.sym_int(a / 2),
        math.floor(a / 3),
        math.ceil(b / 2.5),
        a // b,
        a % 3,
        b**2,
        -a,
        a << 1,
        torch.sym_ite(a > b, a, b),
    ]


def nested_sizes(x: Tensor) -> Any:
    rows = x.repeat(x.shape[0], x.shape[1])
    columns = torch.cat([rows, rows]).reshape(-1, x.shape[1])
    return columns.split(x.shape[0] * x.shape[1]), columns.unfold(0, x.shape[0], 1)


def takes_the_end_twice(x: Tensor) -> Any:
    ends = [x[-2:] for _ in range(3)]
    return [*ends, *(x[:, -3:].t() for _ in range(3)), *(x[x.shape[0] - 3 :] for _ in range(2))]


PROGRAMS = [
    takes_the_end_twice,
    multiplies_by_one,
    sums_up,
    takes_the_largest,
    asks_a_later_tensor_first,
    computes_twice,
    computes_in_vain,
    returns_what_became_known,
    computes_before_it_reads,
    other_kinds_of_numbers,
    nested_sizes,
]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_numbers_are_computed_where_torch_computes_them(program: Any, as_torch: Any) -> None:
    as_torch(program, torch.ones(4, 6))


def test_a_product_that_nobody_computed_is_rebuilt() -> None:
    def as_many_as_bytes(x: Tensor) -> Tensor:
        return x.new_zeros(x.untyped_storage().nbytes() // 4)

    graph_module = hopyard.make_fx(as_many_as_bytes, tracing_mode="symbolic")(torch.ones(3, 5, 7))
    # torch's tracer raises: it calls a function of two numbers with three.
    for shape in ((3, 5, 7), (2, 4, 6), (6, 5, 4)):
        assert graph_module(torch.ones(shape)).shape == (math.prod(shape),)


def test_the_largest_of_three_sizes(as_torch: Any) -> None:
    as_torch(largest_of_three_rebuilt, torch.ones(4), torch.ones(6), torch.ones(5))


def test_an_operator_that_decides_what_a_size_is(as_torch: Any) -> None:
    def normalizes(x: Tensor, filters: Tensor, scale: Tensor) -> Tensor:
        channels = torch.conv1d(x, filters, stride=5)
        return torch.nn.functional.group_norm(channels, 8, scale, scale)

    as_torch(normalizes, torch.randn(9, 1, 400), torch.randn(8, 1, 10), torch.randn(8))


def capture_symbolic(make: Any, function: Any, *inputs: Any, **options: Any) -> Any:
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        return make(function, tracing_mode="symbolic", **options)(*inputs)


def check_as_torch(function: Any, *inputs: Any, **options: Any) -> Any:
    actual = capture_symbolic(hopyard.make_fx, function, *inputs, **options)
    expected = capture_symbolic(torch_make_fx, function, *inputs, **options)
    assert_same_graph(actual, expected)
    assert_same_assumptions(actual, expected)
    assert actual.code == expected.code
    for one, other in zip(actual.graph.nodes, expected.graph.nodes, strict=True):
        ours, theirs = (str(node.meta.get("unbacked_bindings")) for node in (one, other))
        assert ours == theirs, one.name
    return actual


def test_a_value_that_is_read_in_vain_is_read_all_the_same() -> None:
    graph_module = check_as_torch(reads_in_vain, torch.ones(4, 6))
    read = graph_module.graph.find_nodes(
        op="call_function", target=aten._local_scalar_dense.default
    )
    assert len(read) == 2
    assert not any(node.users for node in read)


def test_what_integers_determine_is_computed_once_and_what_values_tell_each_time() -> None:
    def function(x: Tensor, count: int) -> Any:
        one, other = x.sum().item(), x.sum().item()
        pieces = x.new_zeros(count + 1), x.new_ones(1 + count), (count + 1) * 2
        return one + other, pieces, x.new_zeros(x.shape[0] * 2), x.sin().shape[0] * 2

    code = check_as_torch(function, torch.ones(4), 7).code
    assert code.count("_local_scalar_dense.default(") == 2
    assert code.count("count_1 + 1") == 1


def in_bodies(x: Tensor, counts: Tensor) -> Any:
    def promised(x: Tensor, counts: Tensor) -> Any:
        number = counts[0].item()
        torch._check(number >= 2)
        torch._check(number <= x.shape[0] + 3)
        return (x.new_zeros(number).sum() + x.sum(),)

    def otherwise(x: Tensor, counts: Tensor) -> Any:
        return (x.cos().sum(),)

    return torch.ops.higher_order.cond(x.sum() > 0, promised, otherwise, (x, counts))


def test_a_body_checks_what_was_promised_of_numbers() -> None:
    graph_module = check_as_torch(in_bodies, torch.ones(4), torch.tensor([3, 4]))
    assert "_assert_scalar" in graph_module.true_graph_0.code
    assert "_assert_scalar" not in graph_module.code
    assert torch.equal(graph_module(torch.ones(4), torch.tensor([3, 4]))[0], torch.tensor(4.0))
    with pytest.raises(RuntimeError, match="u0 >= 2"):
        graph_module(torch.ones(4), torch.tensor([1, 4]))


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_unbacked_bindings_stand_at_the_topmost_output(pre_dispatch: bool) -> None:
    def function(x: Tensor, counts: Tensor) -> Any:
        first, second = counts.tolist()
        for number in (first, second):
            torch._check(number >= 0)
        places = x.nonzero()
        unique, inverse = torch.unique(x, return_inverse=True)
        pieces = torch.split(torch.arange(6), [2, 4])
        repeated = torch.repeat_interleave(counts)
        return places, unique, inverse, pieces, repeated, x.new_zeros(first + second)

    check_as_torch(function, torch.ones(4), torch.tensor([3, 4]), pre_dispatch=pre_dispatch)


@pytest.mark.parametrize("mode", ["real", "fake"])
def test_only_a_symbolic_graph_has_an_environment_of_symbols(mode: Any) -> None:
    plain = hopyard.make_fx(torch.sin, tracing_mode=mode)(torch.ones(3))
    assert getattr(plain, "shape_env", None) is None
    symbolic = capture_symbolic(hopyard.make_fx, torch.sin, torch.ones(3))
    (size,) = symbolic.graph.find_nodes(op="placeholder")[0].meta["val"].shape
    assert size.node.shape_env is symbolic.shape_env
    assert size.node.expr in symbolic.shape_env.var_to_range


ENABLERS = [
    (proxy_tensor.maybe_enable_thunkify, proxy_tensor.maybe_disable_thunkify),
    (tracing.maybe_enable_thunkify, tracing.maybe_disable_thunkify),
]


@pytest.mark.parametrize("enablers", ENABLERS, ids=["torch's", "ours"])
@pytest.mark.parametrize("make", [torch_make_fx, hopyard.make_fx], ids=["torch", "hopyard"])
def test_numbers_enter_the_graph_when_they_are_used(make: Any, enablers: Any) -> None:
    enable, disable = enablers
    counts: list[int] = []

    def function(x: Tensor) -> Any:
        nodes = tracing.get_proxy_mode().tracer.graph.nodes
        size = x.shape[0]
        for context in (enable, disable, enable):
            with context():
                before = len(nodes)
                unused, used = size * 5 + 1, size * 7 + 2
                counts.append(len(nodes) - before)
                with disable():
                    before = len(nodes)
                    _ = size * 3
                    counts.append(len(nodes) - before)
            _ = x.new_zeros(used), unused
        before = len(nodes)
        _ = size * 11
        counts.append(len(nodes) - before)
        return x.sin()

    capture_symbolic(make, function, torch.ones(4))
    assert counts == [0, 2, 4, 1, 0, 1, 1]


def test_nothing_is_deferred_without_a_capture() -> None:
    with tracing.maybe_enable_thunkify(), tracing.maybe_disable_thunkify():
        assert tracing.get_proxy_mode() is None


@pytest.mark.parametrize("enable", [tracing.maybe_enable_thunkify, tracing.maybe_disable_thunkify])
def test_an_error_leaves_the_setting_as_it_was(enable: Any) -> None:
    found: list[bool] = []

    def fails() -> None:
        with enable():
            found.append(tracing.active_tracer().enable_thunkify)
            raise ZeroDivisionError

    def function(x: Tensor) -> Tensor:
        tracer = tracing.active_tracer()
        assert tracer is not None
        for before in (True, False):
            tracer.enable_thunkify = before
            with pytest.raises(ZeroDivisionError):
                fails()
            found.append(tracer.enable_thunkify)
        return x

    capture_symbolic(hopyard.make_fx, function, torch.ones(4))
    inside = enable is tracing.maybe_enable_thunkify
    assert found == [inside, True, inside, False]


def test_long_chains_of_deferred_numbers() -> None:
    def function(x: Tensor) -> Tensor:
        with tracing.maybe_enable_thunkify():
            total = added(x.shape[0], 3000)
        return x.new_zeros(total)

    graph_module = capture_symbolic(hopyard.make_fx, function, torch.ones(4))
    assert len(graph_module.graph.find_nodes(op="call_function", target=operator.add)) == 3000
    assert graph_module(torch.ones(9)).shape == (3009,)


def added(start: Any, count: int) -> Any:
    return next(itertools.islice(itertools.accumulate([start, *[1] * count]), count, None))
