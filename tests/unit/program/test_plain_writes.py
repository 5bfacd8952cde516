"""Writes are taken out of a graph as functionalization takes them out, with and without a trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim

from hopyard import Program, Session
from hopyard.program import _functionalize

aten = torch.ops.aten


def _twice(x: Tensor) -> Any:
    total = x + 1
    total.add_(2)
    first = total * 3
    total.mul_(first)
    return total, first


def _input_and_result(x: Tensor) -> Any:
    before = x * 2
    after = x.add_(1)
    x.mul_(after)
    return after, before, x.sum()


def _values_of_others(x: Tensor) -> Any:
    one, other = x.sin(), x.cos()
    one.copy_(other)
    other.zero_()
    return one + other, one.fill_(3.0)


def _masked(x: Tensor) -> Any:
    y = x.clone()
    y.masked_fill_(x > 0, 1.5)
    return y.index_put_((torch.tensor([0]),), torch.ones(3))


def _one_of_several(x: Tensor) -> Any:
    values, indices = x.sort()
    values.add_(1)
    return values, indices, x


def _argument_and_operand(x: Tensor) -> Any:
    y = x + 1
    y.addcmul_(y, y, value=2)
    return y.relu_()


PLAIN: list[Callable[..., Any]] = [
    _twice,
    _input_and_result,
    _values_of_others,
    _masked,
    _one_of_several,
    _argument_and_operand,
]


def _through_views(x: Tensor) -> Any:
    y = x.clone()
    y[0].add_(1)
    return y.t_()


def _view_before(x: Tensor) -> Any:
    y = x * 1
    row = y[0]
    y.add_(1)
    return row


def _promoted(x: Tensor) -> Any:
    y = x.to(torch.float64) * 1
    z = x * 1
    return z.add_(y)


def _strided(x: Tensor) -> Any:
    y = torch.empty(3, 2).t().copy_(x)
    return y, y.add_(x)


def _through_parts(x: Tensor) -> Any:
    first, second = (x * 1).split(1)
    first.add_(second)
    return first, second


def _lists(x: Tensor) -> Any:
    parts = [x + 1, x + 2]
    torch._foreach_add_(parts, 1)
    return parts


OTHERS: list[Callable[..., Any]] = [
    _through_views,
    _view_before,
    _promoted,
    _strided,
    _through_parts,
    _lists,
]


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return the graphs that were replayed, a list that grows."""
    seen: list[object] = []
    interpreter = _functionalize._Replay

    def noted(graph_module: Any, options: Any) -> Any:
        seen.append(graph_module)
        return interpreter(graph_module, options)

    monkeypatch.setattr(_functionalize, "_Replay", noted)
    return seen


def _captured(function: Callable[..., Any], x: Tensor, **options: Any) -> Program:
    return Session(discover=False).capture(function, (x,), **options)


def _assert_right(program: Program, function: Callable[..., Any]) -> None:
    for _ in range(2):
        x = torch.randn(2, 3)
        ours, theirs = x.clone(), x.clone()
        found, expected = program(ours), function(theirs)
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("function", PLAIN)
def test_plain_writes_become_what_a_replay_makes_of_them(
    function: Callable[..., Any],
    is_dynamic: bool,
    monkeypatch: pytest.MonkeyPatch,
    replays: list[object],
) -> None:
    options = {"dynamic_shapes": {"x": {0: Dim.AUTO}}} if is_dynamic else {}
    program = _captured(function, torch.randn(2, 3), **options)
    assert not replays
    _assert_right(program, function)
    with monkeypatch.context() as patch:
        patch.setattr(_functionalize, "remove_plain_writes", lambda *given: False)
        replayed = _captured(function, torch.randn(2, 3), **options)
    assert replays
    assert program == replayed
    for one, other in zip(program.graph.nodes, replayed.graph.nodes, strict=True):
        assert one.meta.get("stack_trace") == other.meta.get("stack_trace")
        assert str(one.meta.get("tensor_meta")) == str(other.meta.get("tensor_meta"))
        assert str(one.meta.get("val")) == str(other.meta.get("val"))


@pytest.mark.parametrize("function", OTHERS)
def test_other_writes_are_replayed_and_right(
    function: Callable[..., Any], replays: list[object]
) -> None:
    program = _captured(function, torch.randn(2, 3))
    assert replays
    _assert_right(program, function)


def test_training_is_traced_once_and_updates_statistics(replays: list[object]) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)).train()
    twin = copy.deepcopy(module)
    program = Session(discover=False).capture(module, (torch.randn(2, 3, 8, 8),))
    assert not replays
    targets = [node.target for node in program.graph.nodes]
    assert aten._native_batch_norm_legit_functional.default in targets
    for _ in range(2):
        x = torch.randn(2, 3, 8, 8)
        torch.testing.assert_close(program(x), twin(x))
        torch.testing.assert_close(dict(module.named_buffers()), dict(twin.named_buffers()))


def test_a_write_whose_pure_form_is_to_be_decomposed_is_replayed(replays: list[object]) -> None:
    def decomposed(x: Tensor, y: Tensor, *, alpha: float = 1) -> Tensor:
        return torch.sub(x, torch.neg(y), alpha=alpha)

    table = {aten.add.Tensor: decomposed}
    program = _captured(lambda x: (x * 1).add_(x), torch.randn(2, 3), decompositions=table)
    assert replays
    assert aten.add.Tensor not in [node.target for node in program.graph.nodes]
