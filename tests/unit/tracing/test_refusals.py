"""What a graph cannot hold is refused, with the line of the program and the graph so far."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch._subclasses import FakeTensorMode
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.errors import CaptureError, DataDependentError, UnsupportedError, UsageError
from hopyard.testing import assert_same_graph

aten = torch.ops.aten


def values() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6), torch.randn(4, 6)


def counts_the_positive(x: Tensor, y: Tensor) -> Tensor:
    positive = x > 0
    return positive.nonzero().float() + 1


def selects_by_mask(x: Tensor, y: Tensor) -> Tensor:
    positive = x > 0
    return y[positive]


def branches_on_a_sum(x: Tensor, y: Tensor) -> Tensor:
    total = x.sum()
    if total > 0:
        return x
    return y


def reads_an_item(x: Tensor, y: Tensor) -> Tensor:
    first = x[0, 0]
    return y * first.item()


def reads_a_list(x: Tensor, y: Tensor) -> Tensor:
    first = x[0]
    return y * first.tolist()[0]


def reads_a_number(x: Tensor, y: Tensor) -> Tensor:
    first = x[0, 0]
    return y * float(first)


def loops_while_positive(x: Tensor, y: Tensor) -> Tensor:
    total = x.sum()
    while bool(total > 0):
        total = total - 1
    return total


def repeats_by_a_tensor(x: Tensor, y: Tensor) -> Tensor:
    counts = x[0].long().abs()
    return torch.repeat_interleave(y, counts, dim=1)


def finds_unique_values(x: Tensor, y: Tensor) -> Tensor:
    rounded = x.round()
    return torch.unique(rounded)


DECIDES = [branches_on_a_sum, loops_while_positive]
READS = [reads_an_item, reads_a_number]
SHAPED_BY_DATA = [
    counts_the_positive,
    selects_by_mask,
    repeats_by_a_tensor,
    finds_unique_values,
    reads_a_list,
]


def capture_refused(program: Callable[..., Any], mode: Any) -> DataDependentError:
    with pytest.raises(DataDependentError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(*values())
    return raised.value


def check_told(error: CaptureError, program: Callable[..., Any]) -> None:
    """The error names a line of the program after its first, and holds what ran before it."""
    lines, first = inspect.getsourcelines(program)
    assert error.location is not None
    assert error.location.file == __file__
    assert first + 1 < error.location.line < first + len(lines)
    assert error.hint
    assert error.partial_graph is not None
    operations = [node.op for node in error.partial_graph.nodes]
    assert operations[:3] == ["placeholder", "placeholder", "call_function"]
    assert "output" not in operations
    error.partial_graph.lint()


@pytest.mark.parametrize("program", DECIDES, ids=lambda program: program.__name__)
def test_deciding_by_a_value_is_refused(program: Callable[..., Any], mode: Any) -> None:
    check_told(capture_refused(program, mode), program)


@pytest.mark.parametrize("program", READS, ids=lambda program: program.__name__)
def test_a_real_capture_refuses_to_read_a_value(program: Callable[..., Any]) -> None:
    check_told(capture_refused(program, "real"), program)


@pytest.mark.parametrize("program", [reads_an_item, *SHAPED_BY_DATA], ids=lambda p: p.__name__)
@pytest.mark.parametrize("mode", ["fake"], indirect=True)
def test_a_fake_capture_gives_what_depends_on_data_a_symbol(
    program: Callable[..., Any], as_torch: Any
) -> None:
    as_torch(program, fresh=values)


# Reading a list goes behind the dispatcher: what stops it in a real capture is a safeguard.
@pytest.mark.parametrize("program", SHAPED_BY_DATA, ids=lambda program: program.__name__)
@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_a_real_capture_takes_shapes_from_the_example(
    program: Callable[..., Any], as_torch: Any
) -> None:
    as_torch(program, fresh=values)


@pytest.mark.parametrize("program", [*DECIDES, *READS], ids=lambda program: program.__name__)
def test_a_refusal_cannot_be_caught_by_the_program(program: Callable[..., Any]) -> None:
    def cautious(x: Tensor, y: Tensor) -> Tensor:
        try:
            return program(x, y)
        except Exception:  # noqa: BLE001
            return y

    assert isinstance(capture_refused(cautious, "real"), DataDependentError)


def test_a_default_in_place_of_a_refused_value_is_no_graph() -> None:
    def guarded(x: Tensor, y: Tensor) -> Tensor:
        try:
            scale = x.sum().item()
        except RuntimeError:
            scale = 1.0
        except Exception:  # noqa: BLE001
            scale = 2.0
        return y * scale

    capture_refused(guarded, "real")


def test_the_programs_own_exceptions_stay_its_own(as_torch: Any) -> None:
    def guarded(x: Tensor, y: Tensor) -> Tensor:
        try:
            return x @ y
        except RuntimeError:
            return x @ y.t()

    as_torch(guarded, fresh=values)


def test_an_exception_of_the_program_is_explained(mode: Any) -> None:
    def fails(x: Tensor, y: Tensor) -> Tensor:
        total = x + y
        if total.shape[0] == 4:
            raise ValueError("four rows")
        return total

    with pytest.raises(CaptureError) as raised:
        hopyard.make_fx(fails, tracing_mode=mode)(*values())
    check_told(raised.value, fails)
    assert isinstance(raised.value.__cause__, ValueError)
    assert not isinstance(raised.value, (DataDependentError, UnsupportedError))


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interruption_passes_through(interruption: type[BaseException], mode: Any) -> None:
    def interrupted(x: Tensor, y: Tensor) -> Tensor:
        x + y
        raise interruption

    inputs = values()
    before = [dict(value.__dict__) for value in inputs]
    with pytest.raises(interruption):
        hopyard.make_fx(interrupted, tracing_mode=mode)(*inputs)
    assert [dict(value.__dict__) for value in inputs] == before


class Unknown:
    pass


@pytest.mark.parametrize("output", [Unknown(), {1, 2}, object], ids=["object", "set", "class"])
def test_an_output_that_no_graph_can_hold_is_refused(output: Any, mode: Any) -> None:
    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(lambda x: (x + 1, output), tracing_mode=mode)(torch.ones(2))
    assert raised.value.partial_graph is not None


def test_symbolic_sizes_of_an_outer_fake_mode_are_captured_as_torch_captures_them() -> None:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    def doubled(x: Tensor) -> Tensor:
        return x.new_zeros(x.shape[0] * 2) + x.stride(0)

    def capture(make_fx: Any) -> Any:
        fake = FakeTensorMode(shape_env=ShapeEnv())
        x = fake.from_tensor(torch.randn(4, 6))
        assert isinstance(x.shape[0], torch.SymInt)
        return make_fx(doubled, tracing_mode="fake")(x)

    assert_same_graph(capture(hopyard.make_fx), capture(torch_make_fx))


def test_fake_inputs_of_two_modes_are_refused() -> None:
    one, other = (FakeTensorMode().from_tensor(torch.randn(2)) for _ in range(2))
    with pytest.raises(UsageError):
        hopyard.make_fx(torch.add, tracing_mode="fake")(one, other)


class Unruled(HigherOrderOperator):
    def __init__(self) -> None:
        super().__init__("hopyard_tests__unruled")

    def __call__(self, x: Tensor) -> Any:
        return super().__call__(x)


unruled = Unruled()


def test_a_higher_order_operator_without_a_rule_is_refused(mode: Any) -> None:
    def calls_it(x: Tensor, y: Tensor) -> Any:
        total = x + y
        with torch._C._AutoDispatchBelowAutograd():
            return unruled(total)

    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(calls_it, tracing_mode=mode)(*values())
    assert "hopyard_tests__unruled" in raised.value.message
    assert raised.value.location is not None
    assert raised.value.partial_graph is not None


class Refusing(Tensor):
    """Handles no operator."""

    @staticmethod
    def __new__(cls, inner: Tensor) -> Refusing:
        made: Refusing = Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return NotImplemented


class Tagged(Tensor):
    """Sees torch functions and no operators."""


REFUSING = Refusing(torch.ones(4, 6))
TAGGED = torch.ones(4, 6).as_subclass(Tagged)


def multiplies_what_refuses(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    return total * REFUSING


def multiplies_what_is_tagged(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    return torch.mul(total, TAGGED)


@pytest.mark.parametrize(
    "program", [multiplies_what_refuses, multiplies_what_is_tagged], ids=lambda p: p.__name__
)
def test_a_subclass_that_torch_refuses_is_refused_by_name(
    program: Callable[..., Any], mode: Any
) -> None:
    with pytest.raises(TypeError):
        torch_make_fx(program, tracing_mode=mode)(*values())
    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(*values())
    check_told(raised.value, program)
    assert raised.value.operator == "aten.mul.Tensor"
    assert ("Refusing" if "refuses" in program.__name__ else "Tagged") in raised.value.message
    assert "__torch_dispatch__" in raised.value.hint
    assert isinstance(raised.value.__cause__, TypeError)


# A fake capture makes the input a plain fake tensor, as torch's does.
@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_a_subclass_as_input_is_refused_by_name(mode: Any) -> None:
    def program(x: Tensor) -> Tensor:
        return x.sin() + 1

    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(Refusing(torch.ones(2)))
    assert raised.value.operator == "aten.sin.default"
    assert "Refusing" in raised.value.message
    assert raised.value.location is not None
    assert raised.value.location.file == __file__


def test_a_type_error_of_the_programs_own_is_not_blamed_on_a_subclass(mode: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Any:
        total = x + y
        with suppress(TypeError):
            total * REFUSING
        return total + 1 if total.dim() == 2 and not len(3) else total  # type: ignore[arg-type]

    with pytest.raises(CaptureError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(*values())
    assert not isinstance(raised.value, UnsupportedError)
    assert "has no len()" in raised.value.message
    assert raised.value.operator == ""


FOREIGN = FakeTensorMode().from_tensor(torch.randn(4, 6))


def adds_a_foreign_fake(x: Tensor, y: Tensor) -> Tensor:
    total = x * y
    return total + FOREIGN


def enters_a_fake_mode(x: Tensor, y: Tensor) -> Tensor:
    total = x * y
    with FakeTensorMode():
        return total + 1


@pytest.mark.parametrize(
    "program", [adds_a_foreign_fake, enters_a_fake_mode], ids=lambda p: p.__name__
)
def test_mixed_fake_modes_are_refused_where_they_meet(
    program: Callable[..., Any], mode: Any
) -> None:
    with pytest.raises(AssertionError):
        torch_make_fx(program, tracing_mode=mode)(*values())
    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(*values())
    check_told(raised.value, program)
    assert raised.value.operator == "aten.add.Tensor"
    several = mode != "real"
    assert ("several fake modes" in raised.value.message) == several
    assert ("real tensor together with fake" in raised.value.message) != several


def test_without_its_fake_mode_a_program_gets_real_tensors(as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        kinds.extend([type(torch.ones(3)), type(torch.ones(3))])
        with unset_fake_temporarily():
            kinds.append(type(torch.ones(3)))
        return x * 2

    kinds: list[type] = []
    as_torch(program, fresh=values)
    theirs, ours = kinds[:3], kinds[3:]
    assert ours == theirs
    assert ours[2] is Tensor


def test_fake_inputs_of_two_modes_in_a_real_capture() -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        total = x * 2
        return total + y

    one, other = (FakeTensorMode().from_tensor(torch.randn(2)) for _ in range(2))
    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(program)(one, other)
    check_told(raised.value, program)
    assert raised.value.operator == "aten.add.Tensor"


WEIGHT = torch.randn(4, 6)


def closes_over_a_tensor(x: Tensor, y: Tensor) -> Tensor:
    total = x + y
    return total * WEIGHT


@pytest.mark.parametrize("mode", ["fake", "symbolic"], indirect=True)
def test_a_real_tensor_in_a_fake_capture_is_refused_with_the_ways_out(mode: Any) -> None:
    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(closes_over_a_tensor, tracing_mode=mode)(*values())
    check_told(raised.value, closes_over_a_tensor)
    assert raised.value.operator == "aten.mul.Tensor"
    assert "_allow_non_fake_inputs" in raised.value.hint
    allowed = hopyard.make_fx(closes_over_a_tensor, None, mode, True)(*values())
    assert allowed.graph.find_nodes(op="get_attr")


# Importing Inductor warns.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_a_compiled_function_is_refused_as_by_torch(backend: str, mode: Any) -> None:
    compiled = torch.compile(lambda x: x.sin() + 1, backend=backend)

    def program(x: Tensor, y: Tensor) -> Any:
        total = x + y
        return compiled(total)

    with pytest.raises(RuntimeError, match="dynamo-optimized"):
        torch_make_fx(program, tracing_mode=mode)(*values())
    with pytest.raises(UnsupportedError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(*values())
    check_told(raised.value, program)
    assert "torch.compile" in raised.value.message


def test_a_compiled_function_can_be_looked_through(as_torch: Any) -> None:
    compiled = torch.compile(lambda x: x.sin() + 1, backend="eager")
    with torch._dynamo.config.patch(error_on_nested_fx_trace=False):
        as_torch(lambda x, y: compiled(x) * y, fresh=values)


def test_compiled_functions_work_elsewhere_meanwhile() -> None:
    """Other threads compile and call while this one captures."""
    compiled = torch.compile(lambda x: x.sin() + 1, backend="eager")
    x = torch.ones(2)

    def program(y: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: results.append(compiled(x)))
        thread.start()
        thread.join()
        return y + 1

    results: list[Tensor] = []
    hopyard.make_fx(program)(x)
    assert results[0].equal(x.sin() + 1)
    assert torch.fx._symbolic_trace._is_fx_tracing_flag is False
    torch._dynamo.reset()


def test_the_operator_is_the_one_that_raised_even_through_the_programs_own_exception(
    mode: Any,
) -> None:
    class Wrapped(Exception):
        pass

    def program(x: Tensor, y: Tensor) -> Tensor:
        total = x + 1
        try:
            return torch.mm(total, y)
        except RuntimeError as error:
            raise Wrapped("no product") from error

    with pytest.raises(CaptureError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(*values())
    check_told(raised.value, program)
    assert raised.value.operator == "aten.mm.default"
    assert isinstance(raised.value.__cause__, Wrapped)


def test_an_exception_that_the_program_handles_is_no_operators_fault(mode: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Tensor:
        total = x + 1
        with suppress(RuntimeError):
            return torch.mm(total, y)
        raise ZeroDivisionError

    with pytest.raises(CaptureError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(*values())
    assert raised.value.operator == ""
    assert "ZeroDivisionError" in raised.value.message
