"""Tensors that a program puts aside are reported with the line that made them."""

from __future__ import annotations

import inspect
import threading
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor

import hopyard
from hopyard.errors import UnsupportedError
from hopyard.tracing import watch_leaks


class Remembers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.aside: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x + 1).sin()
        self.aside.append(hidden)
        return hidden * 2


def line_of(text: str) -> int:
    lines, first = inspect.getsourcelines(Remembers)
    (index,) = [index for index, line in enumerate(lines) if text in line]
    return first + index


def test_a_tensor_put_aside_is_reported(mode: Any) -> None:
    module = Remembers()
    with watch_leaks() as watch:
        hopyard.make_fx(module, tracing_mode=mode)(torch.ones(2))
    (leak,) = watch.leaks()
    assert leak.tensor is module.aside[0]
    assert leak.node.name == "sin"
    assert leak.location is not None
    assert (leak.location.file, leak.location.line) == (__file__, line_of("(x + 1).sin()"))
    assert "sin" in str(leak)
    assert isinstance(leak.tensor, FakeTensor) == (mode != "real")
    del leak
    module.aside.clear()
    assert watch.leaks() == []


def test_inputs_and_outputs_are_no_leaks(mode: Any) -> None:
    x = torch.ones(2)
    with watch_leaks() as watch:
        graph_module = hopyard.make_fx(lambda x: (x.add_(1), x.sin()), tracing_mode=mode)(x)
    assert watch.leaks() == []
    assert len(graph_module.graph.nodes) == 4


def test_operators_seen_before_are_watched_too() -> None:
    aside: list[Tensor] = []

    def function(x: Tensor) -> Tensor:
        for _ in range(3):
            x = x.sin()
            aside.append(x)
        return x

    with watch_leaks() as watch:
        hopyard.make_fx(function, tracing_mode="fake")(torch.ones(2))
    assert [leak.node.name for leak in watch.leaks()] == ["sin", "sin_1", "sin_2"]


def test_only_the_watching_thread_and_time_count() -> None:
    module = Remembers()

    def capture() -> None:
        hopyard.make_fx(module)(torch.ones(2))

    with watch_leaks() as watch:
        with watch_leaks() as inner:
            capture()
        thread = threading.Thread(target=capture)
        thread.start()
        thread.join()
    capture()
    assert len(module.aside) == 3
    assert len(inner.leaks()) == 1
    assert watch.leaks() == []


def test_whoever_meets_the_tensor_later_learns_what_it_is() -> None:
    module = Remembers()
    hopyard.make_fx(module, tracing_mode="fake")(torch.ones(2))
    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(lambda x: x + module.aside[0], tracing_mode="fake")(torch.ones(2))
    assert "earlier capture" in raised.value.message
    assert "watch_leaks" in raised.value.hint
