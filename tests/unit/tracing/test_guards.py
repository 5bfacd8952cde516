"""A symbolic graph is right for the sizes that it assumes, and other sizes are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import hopyard
from hopyard.errors import InputError, UsageError
from hopyard.tracing import check_guards


def adds(x: Tensor, y: Tensor) -> Tensor:
    return (x + y).sin()


def reshapes(x: Tensor) -> Tensor:
    return x.view(x.shape[1], x.shape[0]).t() * x.shape[0]


def branches(x: Tensor) -> Tensor:
    return x.sin() if x.shape[0] > 4 else x.cos()


def halves(x: Tensor) -> Tensor:
    assert x.shape[0] % 2 == 0
    return x[: x.shape[0] // 2] + 1


def counts(x: Tensor, number: int) -> Tensor:
    return x.new_zeros(number) if number > 3 else x


def reads(x: Tensor) -> Tensor:
    rows = x.nonzero()
    return rows.sum(0) * rows.shape[0]


def rows(*sizes: int) -> tuple[Tensor, ...]:
    return tuple(torch.arange(size * 3, dtype=torch.float32).view(size, 3) for size in sizes)


WITHIN: dict[str, tuple[Callable[..., Any], tuple[Any, ...], list[tuple[Any, ...]]]] = {
    "sizes": (adds, rows(4, 4), [rows(2, 2), rows(7, 7), rows(60, 60)]),
    "reshapes": (reshapes, rows(4), [rows(2), rows(5), rows(8)]),
    "a branch": (branches, rows(6), [rows(5), rows(8), rows(60)]),
    "the other branch": (branches, rows(4), [rows(2), rows(3), rows(4)]),
    "even sizes": (halves, rows(6), [rows(4), rows(8), rows(60)]),
    "integers": (counts, (*rows(4), 7), [(*rows(2), 5), (*rows(5), 4), (*rows(9), 60)]),
    "what data tells": (reads, rows(4), [rows(2), rows(5), rows(9)]),
}


@pytest.mark.parametrize("name", WITHIN)
def test_a_graph_runs_right_at_other_sizes_within_its_guards(name: str) -> None:
    function, examples, others = WITHIN[name]
    graph_module = hopyard.make_fx(function, tracing_mode="symbolic")(*examples)
    for inputs in (examples, *others):
        check_guards(graph_module, *inputs)
        torch.testing.assert_close(graph_module(*inputs), function(*inputs), rtol=0, atol=0)


OUTSIDE: dict[str, tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...], str]] = {
    "equal sizes differ": (adds, rows(4, 4), rows(4, 5), r"y_1.shape\[0\] == x_1.shape\[0\]"),
    "a size of one": (adds, rows(4, 4), rows(1, 1), r"x_1.shape\[0\] to be from 2"),
    "a branch": (branches, rows(6), rows(4), r"x_1.shape\[0\] > 4"),
    "the other branch": (branches, rows(4), rows(5), r"x_1.shape\[0\] <= 4"),
    "an odd size": (halves, rows(6), rows(5), r"Mod\(x_1.shape\[0\], 2\)|x_1.shape\[0\]"),
    "an integer": (counts, (*rows(4), 7), (*rows(4), 3), "number_1 > 3"),
    "strides": (reads, rows(4), (rows(4)[0].t().contiguous().t(),), r"x_1.stride\(0\) == "),
    "an offset": (reads, rows(4), (rows(5)[0][1:],), r"x_1.storage_offset\(\) == 0"),
    "dimensions": (reads, rows(4), (torch.ones(3),), "2 dimensions"),
    "a number for a tensor": (reads, rows(4), (3,), "2 dimensions"),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_inputs_outside_the_guards_are_refused(name: str) -> None:
    function, examples, inputs, assumption = OUTSIDE[name]
    graph_module = hopyard.make_fx(function, tracing_mode="symbolic")(*examples)
    with pytest.raises(InputError, match=assumption) as raised:
        check_guards(graph_module, *inputs)
    assert raised.value.hint


def test_a_size_that_became_a_number_is_checked() -> None:
    def function(x: Tensor) -> Tensor:
        return x + torch.ones(4, 1)

    graph_module = hopyard.make_fx(function, tracing_mode="symbolic")(*rows(4))
    check_guards(graph_module, *rows(4))
    with pytest.raises(InputError, match=r"x_1.shape\[0\] == 4"):
        check_guards(graph_module, *rows(5))


def test_nested_inputs() -> None:
    graph_module = hopyard.make_fx(lambda pair: pair["x"] + pair["y"][0], tracing_mode="symbolic")(
        {"x": rows(4)[0], "y": [rows(4)[0]]}
    )
    check_guards(graph_module, {"x": rows(6)[0], "y": [rows(6)[0]]})
    with pytest.raises(InputError):
        check_guards(graph_module, {"x": rows(6)[0], "y": [rows(5)[0]]})


def test_checking_adds_no_guard() -> None:
    graph_module = hopyard.make_fx(branches, tracing_mode="symbolic")(*rows(6))
    before = len(graph_module.shape_env.guards)
    check_guards(graph_module, *rows(9))
    with pytest.raises(InputError):
        check_guards(graph_module, *rows(3))
    assert len(graph_module.shape_env.guards) == before


def test_a_graph_without_symbols_and_a_wrong_number_of_inputs() -> None:
    static = hopyard.make_fx(branches, tracing_mode="fake")(*rows(6))
    with pytest.raises(UsageError, match="no symbols"):
        check_guards(static, *rows(6))
    symbolic = hopyard.make_fx(branches, tracing_mode="symbolic")(*rows(6))
    with pytest.raises(UsageError, match="takes 1 inputs, not 2"):
        check_guards(symbolic, *rows(6, 6))
