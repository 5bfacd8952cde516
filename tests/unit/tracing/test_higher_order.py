"""torch's own higher-order operators, recorded by the rules that torch registered."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from functorch.experimental.control_flow import map as torch_map
from torch import Tensor
from torch._higher_order_ops.scan import scan
from torch._higher_order_ops.while_loop import while_loop
from torch.fx.experimental import proxy_tensor
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.testing import assert_same_graph, describe_graph


def branches(x: Tensor, y: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda a, b: (a + b).sin(), lambda a, b: a - b, (x, y)) * 2


def branches_in_branches(x: Tensor, y: Tensor) -> Tensor:
    def inner(a: Tensor, b: Tensor) -> Tensor:
        return torch.cond(b.sum() > 0, lambda p, q: p + q, lambda p, q: p * q, (a, b))

    return torch.cond(x.sum() > 0, inner, lambda a, b: a - b, (x, y))


def maps(x: Tensor, y: Tensor) -> Tensor:
    return torch_map(lambda row, whole: (row * whole).sum(0), x, y)


def scans(x: Tensor, y: Tensor) -> Any:
    return scan(lambda carry, row: (carry + row, carry * row), y[0], x, dim=0)


def loops(x: Tensor, y: Tensor) -> Any:
    def step(index: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        return index + 1, value * 2

    return while_loop(lambda index, value: index < 3, step, (torch.tensor(0), x))


PROGRAMS = [branches, branches_in_branches, maps, scans, loops]


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(4, 3), torch.randn(4, 3)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
def test_a_graph_is_torchs(program: Callable[..., Any], mode: Any) -> None:
    captures = []
    for make_fx in (hopyard.make_fx, torch_make_fx):
        # Dynamo, which these hand their bodies to, takes sizes for symbols once it saw others.
        torch._dynamo.reset()
        captures.append(make_fx(program, tracing_mode=mode)(*inputs()))
    assert_same_graph(*captures)
    torch.testing.assert_close(captures[0](*inputs()), program(*inputs()))


def test_nothing_of_ours_stays_where_torch_looks_for_its_tracer(mode: Any) -> None:
    hopyard.make_fx(branches, tracing_mode=mode)(*inputs())
    assert proxy_tensor._CURRENT_MAKE_FX_TRACER is None


# Which sizes Dynamo takes for symbols depends on which thread comes first.
@pytest.mark.parametrize("mode", ["fake", "real"])
def test_threads_do_not_see_each_others_tracer(mode: Any) -> None:
    expected = {
        program.__name__: describe_graph(hopyard.make_fx(program, tracing_mode=mode)(*inputs()))
        for program in (branches, branches_in_branches)
    }
    barrier = threading.Barrier(4)
    found: list[bool] = []

    def capture(program: Callable[..., Any]) -> None:
        barrier.wait()
        graph_module = hopyard.make_fx(program, tracing_mode=mode)(*inputs())
        found.append(describe_graph(graph_module) == expected[program.__name__])

    threads = [
        threading.Thread(target=capture, args=(program,))
        for program in (branches, branches_in_branches) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 4
    assert proxy_tensor._CURRENT_MAKE_FX_TRACER is None
