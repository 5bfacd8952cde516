"""Where Inductor is to round as eager kernels do is marked as torch marks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._decomp import core_aten_decompositions
from torch._inductor import config
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.nn import functional

import hopyard

MARK = "low_precision_pointwise_barrier"


def program(x: Tensor, y: Tensor) -> Any:
    low = x.bfloat16() * 2
    low.add_(1)
    high = functional.gelu(low).float() + y
    return high, functional.gelu(low), high.half().sum(), torch.split(low, 2), y * 2


def marks(make_fx: Callable[..., Any], table: Any, mode: Any) -> dict[str, Any]:
    graph_module = make_fx(program, table, mode)(torch.ones(4, 6), torch.ones(4, 6))
    return {node.name: node.meta.get(MARK) for node in graph_module.graph.nodes}


@pytest.mark.parametrize("table", [dict, core_aten_decompositions], ids=["plain", "decomposed"])
def test_the_marks_are_torchs(table: Any, mode: Any) -> None:
    with config.patch(emulate_precision_casts=True):
        ours = marks(hopyard.make_fx, table(), mode)
        assert ours == marks(torch_make_fx, table(), mode)
    assert set(ours.values()) == {True, None}


def test_there_are_none_by_default(mode: Any) -> None:
    assert set(marks(hopyard.make_fx, None, mode).values()) == {None}
