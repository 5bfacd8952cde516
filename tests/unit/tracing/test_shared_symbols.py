"""Captures that have a shape environment in common: one after the other, failing, on threads."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode, ShapeEnv

import hopyard
from hopyard.errors import CaptureError
from hopyard.testing import describe_graph
from hopyard.tracing import TracingMode
from hopyard.tracing.recording._nodes import NodeWriter
from hopyard.tracing.symbols._refusals import undecidable_reported

THREADS = 4


class Fault(Exception):
    """What is raised in the middle of a capture."""


def program(x: Tensor, y: Tensor) -> Any:
    for index in range(4):
        x = x.view(-1).view(x.shape[0], -1) * (y.shape[0] * 2 + index)
        x = torch.cat([x, x])[: x.shape[0]].sin().reshape(y.shape[0], -1)
        x = x + y.new_zeros(x.shape[0] * 2, 3).sum() + x.shape[1] // 2
        x = torch.nn.functional.pad(x, (0, 1)) if x.shape[0] > 3 else x
    return x, x.shape[0] * x.shape[1]


def capture(inputs: Any, function: Any = program) -> Any:
    return hopyard.make_fx(function, tracing_mode="symbolic")(*inputs)


def inputs_of(shape_env: ShapeEnv, like: Tensor | None = None) -> list[Tensor]:
    """Return inputs of a fake mode of their own, of the very sizes of another tensor if given."""
    fake_mode = FakeTensorMode(shape_env=shape_env)
    if like is None:
        return [fake_mode.from_tensor(torch.ones(4, 6)) for _ in range(2)]
    with fake_mode:
        return [torch.empty(like.shape) for _ in range(2)]


def left_behind(shape_env: ShapeEnv, inputs: list[Tensor]) -> list[Any]:
    """Return what a capture changes on symbols while it goes on."""
    numbers = [size for value in inputs for size in (*value.shape, *value.stride())]
    nodes = [number.node for number in numbers if isinstance(number, torch.SymInt)]
    methods = [
        name for node in nodes for name in vars(node) if callable(getattr(type(node), name, None))
    ]
    return [methods, sorted(vars(shape_env)), [sorted(vars(value)) for value in inputs]]


@pytest.fixture
def impatient() -> Iterator[None]:
    """Let threads take turns as often as they can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("alike", [False, True], ids=["equal sizes", "the same sizes"])
def test_threads_that_share_symbols(alike: bool, impatient: None) -> None:
    shape_env = ShapeEnv()
    first = inputs_of(shape_env)
    like = first[0] if alike else None
    given = [inputs_of(shape_env, like) for _ in range(THREADS + 1)]
    expected = describe_graph(capture(given[-1]))
    before = left_behind(shape_env, first)
    found: list[Any] = []

    def work(inputs: list[Tensor]) -> None:
        for _ in range(2):
            try:
                found.append(describe_graph(capture(inputs)))
            except Exception as error:  # noqa: BLE001
                found.append(error)

    threads = [threading.Thread(target=work, args=(inputs,)) for inputs in given[:THREADS]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * (2 * THREADS)
    assert left_behind(shape_env, first) == before


def failing(method: Any, position: int) -> Any:
    """Return a method that does its work and raises at the call of this number."""
    calls = itertools.count()

    def faulty(*args: Any, **kwargs: Any) -> Any:
        result = method(*args, **kwargs)
        # C++ asks for a device where no exception can pass.
        if args[1] is not torch.ops.prim.device.default and next(calls) == position:
            raise Fault
        return result

    return faulty


@pytest.mark.parametrize(
    ("owner", "name"), [(TracingMode, "__torch_dispatch__"), (NodeWriter, "call")]
)
def test_a_fault_leaves_symbols_as_they_were(owner: type, name: str) -> None:
    shape_env = ShapeEnv()
    inputs = inputs_of(shape_env)
    expected = describe_graph(capture(inputs))
    before = left_behind(shape_env, inputs)
    for position in itertools.count(0, 7):
        try:
            with mock.patch.object(owner, name, failing(getattr(owner, name), position)):
                capture(inputs)
        except (CaptureError, Fault):
            assert left_behind(shape_env, inputs) == before
        else:
            break
    assert position > 7
    assert describe_graph(capture(inputs)) == expected


@pytest.mark.parametrize("first_to_leave", [0, 1])
def test_each_thread_is_told_of_its_own_decisions(first_to_leave: int) -> None:
    shape_env = ShapeEnv()
    number = shape_env.create_unbacked_symint()
    told: list[list[Exception]] = [[], []]
    steps = [threading.Event() for _ in range(2)]
    entered = threading.Barrier(2)

    def decide(thread: int) -> None:
        with undecidable_reported(shape_env, told[thread].append):
            entered.wait()
            for _ in range(thread + 1):
                with pytest.raises(GuardOnDataDependentSymNode):
                    bool(number > 3)
            if thread != first_to_leave:
                steps[first_to_leave].wait()
        steps[thread].set()

    threads = [threading.Thread(target=decide, args=(thread,)) for thread in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(map(len, told)) == [1, 2]
    assert "evaluate_sym_node" not in vars(shape_env)
