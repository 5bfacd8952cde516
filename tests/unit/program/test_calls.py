"""Calling a program: what it accepts, what it shares, and what it refuses by name."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hopyard
from hopyard import Program
from hopyard.errors import InputError, ProgramError, UnsupportedError, UsageError


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session(discover=False)


def nested(batch: Any, *rest: Any, options: Any) -> Tensor:
    return batch["mask"] * rest[1][0] + options["k"]


def nested_inputs(**replaced: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    given: dict[str, Any] = {
        "mask": torch.ones(2),
        "n": 1,
        "first": torch.ones(2),
        "k": torch.ones(1),
    }
    given.update(replaced)
    args = ({"mask": given["mask"]}, given["n"], [given["first"]])
    return args, {"options": {"k": given["k"]}}


@pytest.fixture(scope="module")
def program(session: hopyard.Session) -> Program:
    args, kwargs = nested_inputs()
    return session.capture(nested, args, kwargs)


@pytest.mark.parametrize(
    ("replaced", "path", "captured", "found"),
    [
        ({"mask": torch.ones(3)}, "batch['mask']", "float32[2] on cpu", "float32[3] on cpu"),
        ({"mask": torch.ones(2, 1)}, "batch['mask']", "float32[2] on cpu", "float32[2, 1] on cpu"),
        ({"mask": torch.ones(())}, "batch['mask']", "float32[2] on cpu", "float32[] on cpu"),
        ({"first": torch.ones(2).int()}, "rest[1][0]", "float32[2] on cpu", "int32[2] on cpu"),
        ({"k": torch.ones(1, device="meta")}, "options['k']", "on cpu", "float32[1] on meta"),
        ({"mask": 3.0}, "batch['mask']", "float32[2] on cpu", "a value of type float"),
        ({"n": 2}, "rest[0]", "1", "2"),
        ({"n": True}, "rest[0]", "1", "True"),
        ({"n": 1.0}, "rest[0]", "1", "1.0"),
        ({"n": None}, "rest[0]", "1", "None"),
    ],
)
def test_a_wrong_input_is_named_by_its_path(
    program: Program, replaced: dict[str, Any], path: str, captured: str, found: str
) -> None:
    args, kwargs = nested_inputs(**replaced)
    if replaced.get("mask", 0) is None:
        return
    with pytest.raises(InputError) as raised:
        program(*args, **kwargs)
    assert path in raised.value.message
    assert captured in raised.value.message
    assert found in raised.value.message


@pytest.mark.parametrize(
    ("args", "kwargs", "written"),
    [
        ((), {}, "()"),
        (({"mask": 1}, 1), {"options": {"k": 1}}, "({'mask': *}, *, options={'k': *})"),
        (({"mas": 1}, 1, [1]), {"options": {"k": 1}}, "({'mas': *}, *, [*], options={'k': *})"),
        (({"mask": 1}, 1, [1], {"k": 1}), {}, "({'mask': *}, *, [*], {'k': *})"),
        (({"mask": 1}, 1, [1]), {"options": {"k": 1}, "x": 1}, "options={'k': *}, x=*)"),
    ],
)
def test_a_wrong_structure_is_written_as_a_call(
    program: Program, args: tuple[Any, ...], kwargs: dict[str, Any], written: str
) -> None:
    with pytest.raises(InputError) as raised:
        program(*args, **kwargs)
    assert written in raised.value.message
    assert "({'mask': *}, *, [*], options={'k': *}) was captured" in raised.value.message


@pytest.mark.parametrize(
    "value", [0.5, float("nan"), float("inf"), -0.0, "text", None, 2**70, 1 + 2j]
)
def test_a_plain_input_is_accepted_again(session: hopyard.Session, value: Any) -> None:
    program = session.capture(lambda a, b: a + 1, (torch.ones(2), value))
    assert torch.equal(program(torch.ones(2), copy.deepcopy(value)), torch.full((2,), 2.0))


@pytest.mark.parametrize(("captured", "given"), [(0.0, -0.0), (2.0, float("nan")), (1, True)])
def test_a_plain_input_that_only_seems_equal_is_refused(
    session: hopyard.Session, captured: Any, given: Any
) -> None:
    program = session.capture(lambda a, b: a / b, (torch.ones(2), captured))
    with pytest.raises(InputError):
        program(torch.ones(2), given)


@pytest.mark.parametrize("leaf", [{1, 2}, bytearray(b"x"), torch.ones(2).numpy()], ids=type)
def test_an_input_that_could_change_unnoticed_is_refused(
    session: hopyard.Session, leaf: Any
) -> None:
    with pytest.raises(UnsupportedError, match=r"options\['values'\]"):
        session.capture(lambda a, options: a, (torch.ones(2), {"values": leaf}))


@pytest.mark.parametrize("args", [[torch.ones(2)], torch.ones(2), None])
def test_args_that_are_no_tuple_are_refused(session: hopyard.Session, args: Any) -> None:
    with pytest.raises(UsageError, match="tuple"):
        session.capture(torch.sin, args)


def test_one_tensor_given_twice_is_captured_as_two(session: hopyard.Session) -> None:
    shared = torch.ones(3)
    program = session.capture(lambda a, b: a - b, (shared, shared))
    assert torch.equal(program(torch.full((3,), 5.0), torch.ones(3)), torch.full((3,), 4.0))


def test_self_attention_is_right_for_cross_attention(session: hopyard.Session) -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    query, other = torch.randn(1, 4, 8), torch.randn(1, 4, 8)
    program = session.capture(attention, (query, query, query))
    torch.testing.assert_close(program(query, other, other), attention(query, other, other))


def test_a_parameter_given_as_input_is_another_value(session: hopyard.Session) -> None:
    linear = nn.Linear(3, 3)
    program = session.capture(linear, (linear.weight,))
    given = torch.randn(3, 3)
    torch.testing.assert_close(program(given), linear(given))


def write_first(first: Tensor, second: Tensor) -> Tensor:
    first.add_(1)
    return second * 2


def overlapping() -> dict[str, tuple[Tensor, Tensor]]:
    base, square = torch.arange(6.0), torch.arange(9.0).view(3, 3)
    return {
        "same tensor": (base[:3], base[:3]),
        "shifted": (base[:4], base[2:]),
        "view": (square, square.t()),
        "columns": (square[:, :2], square[:, 1:]),
        "detached": (base, base.detach()),
    }


@pytest.mark.parametrize("kind", overlapping())
def test_writing_to_memory_that_another_input_shares_is_refused(
    session: hopyard.Session, kind: str
) -> None:
    first, second = overlapping()[kind]
    with pytest.raises(UnsupportedError, match=r"first.*second"):
        session.capture(write_first, (first, second))
    program = session.capture(write_first, (first.clone(), second.clone()))
    before = first.clone()
    with pytest.raises(InputError, match=r"first.*second"):
        program(first, second)
    assert torch.equal(first, before)


def test_reading_shared_memory_and_writing_beside_it_are_allowed(session: hopyard.Session) -> None:
    base = torch.arange(6.0)
    program = session.capture(lambda a, b: a + b, (base[:4], base[2:]))
    assert program(base[:4], base[2:]).tolist() == [2, 4, 6, 8]
    program = session.capture(write_first, (base[:3], base[3:]))
    assert program(base[:3], base[3:]).tolist() == [6, 8, 10]
    assert base.tolist() == [1, 2, 3, 3, 4, 5]


def sharing(first: Tensor, second: Tensor) -> nn.Module:
    class Sharing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("first", first)
            self.register_buffer("second", second)

        def forward(self, x: Tensor) -> Tensor:
            return write_first(self.first, self.second) + x

    return Sharing()


def test_state_that_shares_what_is_written_is_refused(session: hopyard.Session) -> None:
    base = torch.arange(6.0)
    with pytest.raises(UnsupportedError, match=r"first.*second"):
        session.capture(sharing(base[:4], base[2:]), (torch.ones(4),))
    module = sharing(base[:3], base[3:])
    program = session.capture(module, (torch.ones(3),))
    with pytest.raises(InputError, match=r"first.*shares memory with x"):
        program(base[:3])


def test_a_closed_over_tensor_that_shares_what_is_written_is_refused(
    session: hopyard.Session,
) -> None:
    table = torch.zeros(3)

    def forward(a: Tensor) -> Tensor:
        a.add_(1)
        return a + table

    with pytest.raises(UnsupportedError, match="in place"):
        session.capture(forward, (table,))


def test_writing_to_a_closed_over_tensor_names_the_line(session: hopyard.Session) -> None:
    table = torch.zeros(3)

    def forward(a: Tensor) -> Tensor:
        table.add_(1)
        return a + table

    with pytest.raises(UnsupportedError) as raised:
        session.capture(forward, (torch.ones(3),))
    assert raised.value.location.file == __file__
    assert raised.value.location.line == forward.__code__.co_firstlineno + 1


def test_a_program_shares_the_state_of_its_module(session: hopyard.Session) -> None:
    module = nn.BatchNorm1d(3)
    program = session.capture(module, (torch.randn(4, 3),))
    for name, value in {**dict(module.named_parameters()), **dict(module.named_buffers())}.items():
        assert program.state[name] is value
    exported = program.to_exported_program()
    assert exported.state_dict["weight"].data_ptr() == module.weight.data_ptr()
    with torch.no_grad():
        module.weight.fill_(3)
    module.eval()
    given = torch.randn(4, 3)
    before = module.running_mean.clone()
    program(given)
    assert not torch.equal(module.running_mean, before)


def test_a_program_is_not_pickled(program: Program) -> None:
    for dump in (pickle.dumps, lambda it: pickle.dumps({"deep": [it]})):
        with pytest.raises(ProgramError) as raised:
            dump(program)
        assert "save" in raised.value.hint


def test_a_deep_copy_has_tensors_of_its_own(session: hopyard.Session) -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))
            self.weight = nn.Parameter(torch.ones(2))

        def forward(self, a: Tensor) -> Tensor:
            self.calls.add_(1)
            return a * self.weight * self.calls + torch.tensor([1.0, 2.0])

    module = Counter()
    program = session.capture(module, (torch.ones(2),))
    twin = copy.deepcopy(program)
    assert torch.equal(program(torch.ones(2)), twin(torch.ones(2)))
    program(torch.ones(2))
    assert (module.calls.item(), twin.state["calls"].item()) == (2, 1)
    assert twin.state["weight"] is not module.weight
    assert isinstance(twin.state["weight"], nn.Parameter)
    assert str(twin.graph) == str(program.graph)
    twin.graph.erase_node(twin.graph.output_node())
    assert torch.equal(program(torch.ones(2)), module(torch.ones(2)) - module.weight.detach())
    assert copy.copy(program) is program


def test_tensors_tied_in_a_program_are_tied_in_its_deep_copy(session: hopyard.Session) -> None:
    base = torch.zeros(4)
    module = sharing(base[:2], base[2:])
    program = copy.deepcopy(session.capture(module, (torch.ones(2),)))
    first, second = program.state["first"], program.state["second"]
    assert first.untyped_storage().data_ptr() == second.untyped_storage().data_ptr()
    assert first.untyped_storage().data_ptr() != base.untyped_storage().data_ptr()


def test_it_says_what_it_is(session: hopyard.Session) -> None:
    program = session.capture(nn.Linear(3, 2), (torch.ones(1, 3),))
    assert "2 parameters" in repr(program)
    text = program.print_readable()
    assert "torch.ops.aten.addmm.default" in text
    assert "nn/modules/linear.py" not in text.split("def forward")[0]


def shifted(x: Tensor, y: Tensor, z: int = 3, *, sign: int = 1) -> Tensor:
    return (x - 2 * y) * z * sign


@pytest.mark.parametrize("example", [0, 1, 2])
@pytest.mark.parametrize("given", [0, 1, 2])
def test_arguments_are_given_by_position_or_by_name(
    session: hopyard.Session, example: int, given: int
) -> None:
    def split(count: int) -> tuple[Any, Any]:
        named = {"x": torch.ones(2), "y": torch.full((2,), 3.0)}
        values = list(named.items())
        return tuple(value for _, value in values[:count]), dict(values[count:])

    args, kwargs = split(example)
    program = session.capture(shifted, args, kwargs)
    args, kwargs = split(given)
    assert program(*args, **kwargs).tolist() == shifted(*args, **kwargs).tolist()
    with pytest.raises(InputError):
        program(*args, torch.ones(2), **kwargs)
