"""Symbolic numbers remember what was computed with them, and compute what torch's compute."""

from __future__ import annotations

import logging
import operator
from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import SymBool, SymInt, Tensor
from torch._dynamo.source import ConstantSource
from torch.fx.experimental import sym_node
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv, guard_or_false, guard_or_true

import hopyard
from hopyard.testing import assert_same_graph
from hopyard.tracing.symbols._arithmetic import Arithmetic, RememberingNode
from hopyard.tracing.symbols._refusals import undecidable_reported

SIZES = (6, 7, 12)

ON_NUMBERS: tuple[Callable[[Any, Any], Any], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.floordiv,
    operator.mod,
    torch.sym_max,
    torch.sym_min,
    operator.eq,
    operator.ne,
    operator.lt,
    operator.le,
    operator.gt,
    operator.ge,
    operator.truediv,
)
ON_TRUTHS = (operator.and_, operator.or_)
DECISIONS = ("guard_bool", "guard_or_false", "guard_or_true")


def symbols(shape_env: ShapeEnv, hints: tuple[int, ...] = SIZES) -> list[SymInt]:
    made = []
    for index, hint in enumerate(hints):
        source = ConstantSource(f"size{index}")
        symbol = shape_env.create_symbol(hint, source, do_not_specialize_zero_one=True)
        made.append(shape_env.create_symintnode(symbol, hint=hint, source=source))
    return made


def remembering(
    shape_env: ShapeEnv, hints: tuple[int, ...] = SIZES
) -> tuple[Arithmetic, list[SymInt]]:
    arithmetic = Arithmetic(shape_env)
    numbers = symbols(shape_env, hints)
    for number in numbers:
        arithmetic.adopt(number.node)
    return arithmetic, numbers


def look(value: Any) -> Any:
    if not isinstance(value, (SymInt, SymBool, torch.SymFloat)):
        return type(value), value
    node = value.node
    return type(value), str(node._expr), str(node.expr), node._hint, node.pytype, node.constant


def computed(numbers: list[Any], steps: list[tuple[int, int, int, bool]]) -> list[Any]:
    """Compute step by step, deciding by some results, and tell all that came out."""
    values = [*numbers, 1, 2, 5]
    truths: list[Any] = [numbers[0] == numbers[1]]
    seen = []
    for chosen, left, right, decides in steps:
        function = (*ON_NUMBERS, *ON_TRUTHS)[chosen % (len(ON_NUMBERS) + len(ON_TRUTHS))]
        pool = truths if function in ON_TRUTHS else values
        try:
            result = function(pool[left % len(pool)], pool[right % len(pool)])
        except (ZeroDivisionError, TypeError, OverflowError) as error:
            seen.append(type(error))
            continue
        seen.append(look(result))
        if isinstance(result, SymBool):
            truths.append(result)
            if decides:
                method = DECISIONS[left % len(DECISIONS)]
                seen.append(getattr(result.node, method)("", 0))
        elif isinstance(result, SymInt) and abs(result.node.hint) < 10**6:
            values.append(result)
    return [*seen, *map(look, values)]


STEPS = st.lists(
    st.tuples(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.booleans()),
    min_size=1,
    max_size=20,
)


@given(steps=STEPS)
def test_it_computes_what_torch_computes(steps: list[tuple[int, int, int, bool]]) -> None:
    # Twice each: the second time is answered from memory.
    plain_env, env = ShapeEnv(), ShapeEnv()
    expected = computed(symbols(plain_env), steps * 2)
    _, numbers = remembering(env)
    assert computed(numbers, steps * 2) == expected
    assert [str(each.expr) for each in env.guards] == [str(each.expr) for each in plain_env.guards]
    assert str(env.replacements) == str(plain_env.replacements)
    assert str(env.var_to_range) == str(plain_env.var_to_range)


def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the list to which each operation of torch's symbolic algebra is added."""
    seen: list[Any] = []
    create = ShapeEnv._create_fx_call_function

    def counted(self: ShapeEnv, op: Any, args: Any) -> Any:
        seen.append(op)
        return create(self, op, args)

    monkeypatch.setattr(ShapeEnv, "_create_fx_call_function", counted)
    return seen


def test_an_operation_is_asked_once_and_gives_a_number_of_its_own_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, (one, other, _) = remembering(ShapeEnv())
    seen = asked(monkeypatch)
    products = [one * other for _ in range(3)]
    assert seen == [operator.mul]
    assert len({id(vars(product.node)) for product in products}) == 3
    # What was computed remembers as well, and equal expressions are the same to it.
    sums = [product + 1 for product in products]
    assert seen == [operator.mul, operator.add]
    assert len({str(each) for each in sums}) == 1


@pytest.mark.parametrize("decide", [*DECISIONS, "expect_true"])
def test_a_decision_is_asked_once(decide: str, monkeypatch: pytest.MonkeyPatch) -> None:
    env = ShapeEnv()
    _, (one, other, _) = remembering(env)
    seen: list[Any] = []
    evaluate = ShapeEnv.evaluate_sym_node
    monkeypatch.setattr(
        ShapeEnv,
        "evaluate_sym_node",
        lambda self, node, *args, **kwargs: (
            seen.append(node.expr) or evaluate(self, node, *args, **kwargs)
        ),
    )
    conditions = [one < other for _ in range(3)]
    assert [getattr(condition.node, decide)("", 0) for condition in conditions] == [True] * 3
    assert len(seen) == 1
    assert [str(guard.expr) for guard in env.guards] == [str(conditions[0].node.expr)]


@pytest.mark.parametrize("decide", [bool, guard_or_false, guard_or_true])
def test_a_function_that_decides_in_a_capture_asks_once(
    decide: Callable[[Any], bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    evaluate = ShapeEnv.evaluate_expr
    monkeypatch.setattr(
        ShapeEnv,
        "evaluate_expr",
        lambda self, *args, **kwargs: seen.append(args) or evaluate(self, *args, **kwargs),
    )
    env = ShapeEnv()
    _, (one, other, _) = remembering(env)
    with undecidable_reported(env, seen.append):
        with env.suppress_guards():
            assert decide(one < other) is True
        assert not env.guards
        assert [decide(one < other) for _ in range(3)] == [True] * 3
        # Once without a guard and once with one.
        assert len(seen) == len(env.guards) + 1 == 2
        # Another number of that expression, asked in another way.
        assert (one < other).node.guard_or_true("", 0)
        assert len(seen) == (2 if decide is guard_or_true else 3)


def test_how_it_was_asked_is_part_of_a_decision() -> None:
    def guards(number: SymInt) -> list[str]:
        condition = 64 * (number // 4) != 0
        for decide in (*DECISIONS, "expect_true") * 2:
            assert getattr(condition.node, decide)("", 0)
        return [str(guard.expr) for guard in number.node.shape_env.guards]

    expected = guards(symbols(ShapeEnv())[0])
    assert len(expected) > len(set(expected))
    assert guards(remembering(ShapeEnv())[1][0]) == expected


@pytest.mark.parametrize("decide", DECISIONS)
def test_a_decision_without_a_guard_is_no_decision(decide: str) -> None:
    env = ShapeEnv()
    _, (one, other, _) = remembering(env)
    with env.suppress_guards():
        assert getattr((one < other).node, decide)("", 0)
    assert not env.guards
    assert getattr((one < other).node, decide)("", 0)
    assert len(env.guards) == 1
    with env.suppress_guards():
        assert getattr((one < other).node, decide)("", 0)


@pytest.mark.parametrize(("decide", "usual"), [("guard_or_false", False), ("guard_or_true", True)])
def test_a_decision_without_example_sizes_is_another(decide: str, usual: bool) -> None:
    env = ShapeEnv()
    _, (one, other, _) = remembering(env)
    condition = (one < other) if not usual else (other < one)
    with torch.fx.experimental._config.patch(backed_size_oblivious=True):
        assert getattr(condition.node, decide)("", 0) is usual
    assert getattr(condition.node, decide)("", 0) is not usual


def test_an_expectation_of_what_nobody_knows_is_checked_when_the_program_runs() -> None:
    def asserts(adopt: Callable[[SymNode], None], env: ShapeEnv) -> list[str]:
        number = env.create_unbacked_symint()
        adopt(number.node)
        for _ in range(2):
            assert (number > 3).node.expect_true("", 0)
        return [str(each.expr) for found in env.deferred_runtime_asserts.values() for each in found]

    env = ShapeEnv()
    expected = asserts(lambda node: None, ShapeEnv())
    assert len(expected) == 1
    assert asserts(Arithmetic(env).adopt, env) == expected


def test_hints_are_part_of_what_is_remembered() -> None:
    env = ShapeEnv()
    arithmetic, (one, *_) = remembering(env)
    assert (one + 1).node.hint == 7
    again = SymInt(SymNode(one.node.expr, env, int, 20))
    arithmetic.adopt(again.node)
    assert (again + 1).node.hint == 21


def test_how_a_sum_was_made_is_part_of_what_is_remembered() -> None:
    # Of sums that are equal, one may know that its terms are different symbols, which decides how
    # the next term is added.
    env = ShapeEnv()
    arithmetic, (one, other, third, fourth) = remembering(env, (5, 6, 7, 8))
    known = one + other + third
    unknown = SymInt(SymNode(known.node.expr, env, int, known.node.hint))
    arithmetic.adopt(unknown.node)
    sums = [known + fourth, unknown + fourth, fourth + unknown, fourth + known]
    assert [each.node._optimized_summation for each in sums] == [True, False, False, True]


def test_what_is_known_of_ranges_is_part_of_what_a_remainder_is() -> None:
    def remainders(adopt: Callable[[SymNode], None], env: ShapeEnv) -> list[str]:
        number = env.create_unbacked_symint()
        adopt(number.node)
        found = [type((number % 5).node.expr).__name__]
        torch._check(number >= 0)
        return [*found, type((number % 5).node.expr).__name__]

    env = ShapeEnv()
    expected = remainders(lambda node: None, ShapeEnv())
    assert expected == ["PythonMod", "Mod"]
    assert remainders(Arithmetic(env).adopt, env) == expected


def test_what_symbols_are_replaced_by_is_part_of_what_is_remembered() -> None:
    def before_and_after(one: SymInt, other: SymInt) -> list[Any]:
        difference = one - other
        seen = [look(difference), look(one * other), difference.node.maybe_as_int()]
        assert bool(one == other)
        return [
            *seen,
            *map(look, (difference, one - other, one * other)),
            difference.node.maybe_as_int(),
        ]

    expected = before_and_after(*symbols(ShapeEnv(duck_shape=False), (6, 6)))
    assert expected[2] is None
    assert expected[-1] == 0
    assert before_and_after(*remembering(ShapeEnv(duck_shape=False), (6, 6))[1]) == expected


def test_what_a_replacement_changes_is_looked_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (one, other, _) = remembering(ShapeEnv(duck_shape=False), (6, 6, 12))
    assert str(one * other) != str(one * one)
    assert bool(one == other)
    first = one * other
    assert first.node.expr == (one * one).node.expr
    looked_up: list[Any] = []
    usual = RememberingNode.look_up
    monkeypatch.setattr(
        RememberingNode, "look_up", lambda node: (looked_up.append(node), usual(node))[1]
    )
    assert [(one * other).node.expr for _ in range(5)] == [first.node.expr] * 5
    assert looked_up == []


def test_after_the_capture_numbers_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    env = ShapeEnv()
    arithmetic, (one, other, _) = remembering(env)
    _ = one * other
    arithmetic.end()
    seen = asked(monkeypatch)
    results = [one * other, one * other, one + 2, one == other]
    assert len(seen) == 4
    assert all(type(result.node) is SymNode for result in results)
    # Another capture of the same symbols adopts them.
    Arithmetic(env).adopt(one.node)
    assert isinstance((one + 1).node, RememberingNode)


def test_numbers_of_other_symbols_are_left_alone() -> None:
    arithmetic, (one, *_) = remembering(ShapeEnv())
    (stranger, *_) = symbols(ShapeEnv(), (5,))
    arithmetic.adopt(stranger.node)
    assert type(stranger.node) is SymNode
    # Another capture goes on: its numbers stay its own.
    inner = Arithmetic(one.node.shape_env)
    inner.adopt(one.node)
    assert one.node.arithmetic is arithmetic


def test_nothing_is_left_out_of_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sym_node.sym_node_log, "level", logging.DEBUG)
    sym_node.sym_node_log.manager._clear_cache()
    _, (one, *_) = remembering(ShapeEnv())
    monkeypatch.undo()
    sym_node.sym_node_log.manager._clear_cache()
    assert type(one.node) is SymNode


def test_nothing_is_left_out_of_a_record_of_events() -> None:
    _, (one, *_) = remembering(ShapeEnv(should_record_events=True))
    assert type(one.node) is SymNode


def size_arithmetic(x: Tensor, y: Tensor) -> tuple[Any, ...]:
    rows, columns = x.shape
    numbers = []
    for _ in range(2):
        numbers += [1 * rows, rows * 1, 3 * rows, rows // 2, 7 % columns, rows % columns]
        numbers += [torch.sym_max(3, rows), torch.sym_max(rows, columns), 20 - rows, rows - 20]
        numbers += [(rows == columns) & (rows > 3), rows == 3, rows + columns + y.shape[0], -rows]
        numbers += [rows / columns, rows * 0.5, rows**2]
    return (x.reshape(-1) + y.sum(), *numbers)


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_a_graph_holds_what_was_computed_each_time(pre_dispatch: bool) -> None:
    inputs = (torch.randn(6, 5), torch.randn(7))
    options: dict[str, Any] = {"tracing_mode": "symbolic", "pre_dispatch": pre_dispatch}
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        theirs = torch_make_fx(size_arithmetic, **options)(*inputs)
    ours = hopyard.make_fx(size_arithmetic, **options)(*inputs)
    assert_same_graph(ours, theirs)
    assert str(ours.shape_env.guards) == str(theirs.shape_env.guards)


def plain_numbers_first(x: Tensor) -> list[Any]:
    """Ask as kernels do, which may ask a plain number about a symbolic one."""
    rows = x.shape[0].node
    found: list[Any] = []
    for plain in (rows.wrap_int(6), rows.wrap_int(9)) * 2:
        found += [SymBool(getattr(plain, name)(rows)) for name in ("eq", "ne", "lt", "le", "gt")]
        found += [SymBool(plain.ge(rows)), SymInt(plain.sub(rows))]
    return [x.sum(), *found, *[x + int(bool(each)) for each in found[:6]]]


def test_a_plain_number_that_is_compared_with_a_size_is_asked_as_torch_asks_it() -> None:
    inputs = (torch.randn(6, 5),)
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        theirs = torch_make_fx(plain_numbers_first, tracing_mode="symbolic")(*inputs)
    ours = hopyard.make_fx(plain_numbers_first, tracing_mode="symbolic")(*inputs)
    assert_same_graph(ours, theirs)
    guards = [[str(guard.expr) for guard in each.shape_env.guards] for each in (ours, theirs)]
    assert guards[0] == guards[1]


def test_a_comparison_with_a_plain_number_on_either_side_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counts = []

    def compares(x: Tensor) -> Tensor:
        rows = x.shape[0].node
        seven = rows.wrap_int(7)
        seen = asked(monkeypatch)
        for _ in range(3):
            assert SymBool(rows.lt(seven))
            assert SymBool(seven.gt(rows))
            counts.append(len(seen))
        return x

    hopyard.make_fx(compares, tracing_mode="symbolic")(torch.randn(6, 5))
    assert counts[0] > 0
    assert counts[1:] == counts[:1] * 2


def test_kinds_of_numbers_are_part_of_what_is_remembered() -> None:
    env = ShapeEnv()
    arithmetic, (one, *_) = remembering(env)
    integer = one.node.wrap_int(1)
    truth = one.node.wrap_bool(True)
    assert [integer.maybe_as_int(), truth.maybe_as_bool()] == [1, True]
    assert type(integer.expr) is not type(truth.expr)
    assert look(SymInt(one.node.mul(integer)))[1] == str(one)
    assert arithmetic.term(integer.expr, integer) is not arithmetic.term(integer.expr, truth)
