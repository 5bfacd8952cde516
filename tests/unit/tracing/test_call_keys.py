"""Everything that the result of a remembered operator depends on is in its key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.source import ConstantSource
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from hopyard.tracing import Recorder, ValueRecorder
from hopyard.tracing.memory._calls import FakeCalls

add = torch.ops.aten.add.Tensor


@contextmanager
def switched(set_value: Callable[[Any], None], value: Any, before: Any) -> Iterator[None]:
    set_value(value)
    try:
        yield
    finally:
        set_value(before)


@contextmanager
def another_kernel() -> Iterator[None]:
    library = torch.library.Library("hopyard_call_keys", "DEF")
    library.define("nothing(Tensor x) -> Tensor")
    library.impl("nothing", lambda x: x.clone(), "CPU")
    try:
        yield
    finally:
        library._destroy()


@contextmanager
def another_python_rule() -> Iterator[None]:
    key = torch._C.DispatchKey.ZeroTensor
    assert key not in add.py_kernels
    add.py_kernels[key] = add.redispatch
    try:
        yield
    finally:
        del add.py_kernels[key]


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype": lambda: switched(torch.set_default_dtype, torch.float64, torch.float32),
    "grad mode": torch.no_grad,
    "inference mode": torch.inference_mode,
    "deterministic algorithms": lambda: switched(torch.use_deterministic_algorithms, True, False),
    "mkldnn": lambda: switched(
        torch._C._set_mkldnn_enabled,
        not torch._C._get_mkldnn_enabled(),
        torch._C._get_mkldnn_enabled(),
    ),
    "cudnn": lambda: switched(
        torch._C._set_cudnn_enabled,
        not torch._C._get_cudnn_enabled(),
        torch._C._get_cudnn_enabled(),
    ),
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "included keys": lambda: torch._C._IncludeDispatchKeyGuard(
        torch._C.DispatchKey.PythonDispatcher
    ),
    "excluded keys": torch._C._AutoDispatchBelowAutograd,
    "registered kernels": another_kernel,
    "the operator's Python rules": another_python_rule,
}


@pytest.fixture
def key_of() -> Callable[..., tuple[Any, ...]]:
    fake_mode = FakeTensorMode()
    recorder = Recorder(ValueRecorder(fake_mode))
    calls = FakeCalls(recorder)
    tracked: list[Tensor] = []

    def key(*args: Any, operator: Any = add, **kwargs: Any) -> tuple[Any, ...]:
        for value in args:
            if isinstance(value, Tensor) and recorder.slots.get(value) is None:
                recorder.placeholder(f"x{len(tracked)}", value)
                tracked.append(value)
        with fake_mode:
            call = calls.read(operator, args, kwargs)
        assert call is not None
        return call.key

    key.fake = fake_mode.from_tensor  # type: ignore[attr-defined]
    return key


@pytest.mark.parametrize("state", STATES)
def test_a_state_that_operators_see(state: str, key_of: Any) -> None:
    x = key_of.fake(torch.ones(2, 3))
    before = key_of(x, x)
    with STATES[state]():
        assert key_of(x, x) != before
    assert key_of(x, x) == before


OPERANDS: dict[str, Callable[[], Tensor]] = {
    "shape": lambda: torch.ones(3, 2),
    "stride": lambda: torch.ones(3, 2).t(),
    "offset": lambda: torch.ones(9)[3:].view(2, 3),
    "dtype": lambda: torch.ones(2, 3, dtype=torch.int64),
    "storage size": lambda: torch.ones(9)[:6].view(2, 3),
    "requires grad": lambda: torch.ones(2, 3, requires_grad=True),
}


@pytest.mark.parametrize("kind", OPERANDS)
def test_what_an_operand_is(kind: str, key_of: Any) -> None:
    plain = key_of.fake(torch.ones(2, 3))
    alike = key_of.fake(torch.ones(2, 3))
    other = key_of.fake(OPERANDS[kind]())
    assert key_of(plain, plain) == key_of(alike, alike)
    assert key_of(other, other) != key_of(plain, plain)


def test_values_types_names_and_the_operator(key_of: Any) -> None:
    x = key_of.fake(torch.ones(2, 3))
    keys = [
        key_of(x, x),
        *(key_of(x, number, operator=torch.ops.aten.add.Scalar) for number in (1, 1.0, True, 2)),
        key_of(x, x, alpha=1),
        key_of(x, x, alpha=2),
        key_of(x, x, operator=torch.ops.aten.sub.Tensor),
        key_of(x, [2, 3], operator=torch.ops.aten.view.default),
        key_of(x, (2, 3), operator=torch.ops.aten.view.default),
        key_of(x, [6], operator=torch.ops.aten.view.default),
    ]
    assert len(set(keys)) == len(keys)


@pytest.fixture
def symbolic_key_of() -> Callable[..., tuple[Any, ...]]:
    fake_mode = FakeTensorMode(shape_env=ShapeEnv())
    recorder = Recorder(ValueRecorder(fake_mode))
    calls = FakeCalls(recorder)

    def key(*args: Any, operator: Any = add) -> tuple[Any, ...] | None:
        for value in args:
            if isinstance(value, Tensor) and recorder.slots.get(value) is None:
                recorder.placeholder("x", value)
        with fake_mode:
            call = calls.read(operator, args, {})
        return None if call is None else call.key

    def fake(tensor: Tensor) -> Tensor:
        sources.append(ConstantSource(f"input{len(sources)}"))
        return fake_mode.from_tensor(tensor, source=sources[-1])

    sources: list[Any] = []
    key.fake = fake  # type: ignore[attr-defined]
    key.shape_env = fake_mode.shape_env  # type: ignore[attr-defined]
    return key


SYMBOLIC_OPERANDS: dict[str, Callable[[], Tensor]] = {
    "shape": lambda: torch.ones(5, 6),
    "a size that is no symbol": lambda: torch.ones(5, 1),
    "stride": lambda: torch.ones(6, 5).t(),
    "offset": lambda: torch.ones(33)[3:].view(5, 6),
    "dtype": lambda: torch.ones(5, 6, dtype=torch.int64),
    "requires grad": lambda: torch.ones(5, 6, requires_grad=True),
}


@pytest.mark.parametrize("kind", SYMBOLIC_OPERANDS)
def test_what_an_operand_with_symbolic_sizes_is(kind: str, symbolic_key_of: Any) -> None:
    key_of = symbolic_key_of
    plain, alike = key_of.fake(torch.ones(5, 7)), key_of.fake(torch.ones(5, 7))
    other = key_of.fake(SYMBOLIC_OPERANDS[kind]())
    assert key_of(plain, plain) == key_of(alike, alike)
    assert key_of(other, other) != key_of(plain, plain)


def test_which_numbers_of_a_call_are_one(symbolic_key_of: Any) -> None:
    key_of = symbolic_key_of
    view = torch.ops.aten.view.default
    x, other = key_of.fake(torch.ones(5, 7)), key_of.fake(torch.ones(5, 7))
    rows, columns = x.shape
    others, _ = other.shape
    assert others.node is not rows.node
    assert key_of(x, other) != key_of(x, x)
    assert key_of(x, [rows, columns], operator=view) != key_of(x, [others, columns], operator=view)


def test_expressions_and_kinds_of_numbers(symbolic_key_of: Any) -> None:
    key_of = symbolic_key_of
    x = key_of.fake(torch.ones(5, 7))
    rows, columns = x.shape
    scale = torch.ops.aten.mul.Scalar
    keys = [
        key_of(x, number, operator=scale)
        for number in (rows, columns, rows * 2, torch.sym_float(rows), rows > 3, 5, 5.0)
    ]
    assert None not in keys
    assert len(set(keys)) == len(keys)
    assert key_of(x, rows * 2, operator=scale) == key_of(x, rows * 2, operator=scale)


def test_what_is_known_of_symbols(symbolic_key_of: Any) -> None:
    key_of = symbolic_key_of
    x = key_of.fake(torch.ones(5, 7))
    keys = [key_of(x, x)]
    assert x.shape[0] < 100
    keys.append(key_of(x, x))
    assert x.shape[1] % 7 == 0
    keys.append(key_of(x, x))
    assert x.shape[0] == 5
    keys.append(key_of(x, x))
    assert len(set(keys)) == len(keys)
    assert key_of(x, x) == keys[-1]


def test_looking_at_an_operand_makes_no_guard(symbolic_key_of: Any) -> None:
    key_of = symbolic_key_of
    x, other = key_of.fake(torch.ones(5, 7)), key_of.fake(torch.ones(5, 7))
    key_of(x, x)
    before = len(key_of.shape_env.guards)
    x.data = other.t()
    key_of(x, x)
    assert len(key_of.shape_env.guards) == before


def test_what_depends_on_data_is_never_remembered(symbolic_key_of: Any) -> None:
    key_of = symbolic_key_of
    size = key_of.shape_env.create_unbacked_symint()
    x = key_of.fake(torch.ones(5, 7))
    assert key_of(x, size, operator=torch.ops.aten.mul.Scalar) is None


def test_another_fake_mode_or_none_takes_the_long_way() -> None:
    fake_mode = FakeTensorMode()
    calls = FakeCalls(Recorder(ValueRecorder(fake_mode)))
    ones = torch.ops.aten.ones.default
    with fake_mode:
        assert calls.read(ones, ([3],), {}) is not None
        with FakeTensorMode():
            assert calls.read(ones, ([3],), {}) is None
    assert calls.read(ones, ([3],), {}) is None
