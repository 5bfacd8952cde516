"""What makes tracing fast changes no graph, and can be switched off by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hopyard
from hopyard.errors import UnknownNameError
from hopyard.testing import assert_same_graph
from hopyard.tracing import Techniques

NAMES = [field.name for field in fields(Techniques)]


def training(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    weight = weight.detach().requires_grad_()
    loss = torch.nn.functional.gelu(x @ weight).sum()
    return torch.autograd.grad(loss, weight)


def writing(x: Tensor, weight: Tensor) -> Tensor:
    total = torch.zeros_like(x)
    for row in range(3):
        total[row] = (x @ weight)[row]
        total.t()[row].mul_(2)
    return total.add_(x)


def several(x: Tensor, weight: Tensor) -> list[Tensor]:
    parts = [*x.split(2), *x.split(2), *torch.topk(x, 2), *torch.topk(x, 2)]
    return [part.sin() * torch.tensor(2.0) for part in parts]


layers = nn.Sequential(*[nn.Linear(6, 6) for _ in range(3)]).eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("program", [training, writing, several], ids=lambda p: p.__name__)
def test_a_technique_changes_no_graph(
    name: str, program: Callable[..., Any], mode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = torch.randn(6, 6), torch.randn(6, 6)
    fast = hopyard.make_fx(program, tracing_mode=mode)(*inputs)
    monkeypatch.setenv("HOPYARD_TRACING_WITHOUT", name)
    slow = hopyard.make_fx(program, tracing_mode=mode)(*inputs)
    assert_same_graph(fast, slow)
    assert fast.code == slow.code


def test_a_captured_module_is_the_same_without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = torch.randn(4, 6)
    session = hopyard.Session(discover=False)
    fast = session.capture(layers, (inputs,))
    monkeypatch.setenv("HOPYARD_TRACING_WITHOUT", ",".join(NAMES))
    slow = session.capture(layers, (inputs,))
    assert_same_graph(fast.graph_module, slow.graph_module)


def test_a_name_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOPYARD_TRACING_WITHOUT", "memry")
    with pytest.raises(UnknownNameError) as raised:
        hopyard.make_fx(torch.sin, tracing_mode="fake")(torch.ones(2))
    assert raised.value.closest == "memory"
