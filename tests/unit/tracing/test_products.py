"""A tensor is made with numbers that are known, and nothing remains of how it was made."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import SymInt
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.sym_node import SymNode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from hopyard.tracing import make_fx
from hopyard.tracing.memory import _fakes
from hopyard.tracing.memory._fakes import FakeFactory
from hopyard.tracing.memory._numbers import NewNumber
from hopyard.tracing.memory._products import Products, UnforeseenProductError
from hopyard.tracing.symbols._arithmetic import Arithmetic, RememberingInteger


@pytest.fixture
def sizes() -> tuple[SymInt, ...]:
    fake_mode = FakeTensorMode(shape_env=ShapeEnv())
    return tuple(fake_mode.from_tensor(torch.empty(5, 6, 7)).shape)


def make(sizes: Any, stride: Any, elements: Any, *, is_contiguous: bool) -> torch.Tensor:
    fakes = FakeFactory(FakeTensorMode(shape_env=sizes[0].node.shape_env))
    numbers = (*sizes, *stride, 0, elements)
    products = Products(numbers, len(sizes), is_contiguous=is_contiguous)
    with torch._C._DisableTorchDispatch():
        return fakes.symbolic(numbers, products, 4, torch.float32, torch.device("cpu"))


def attributes(sizes: Any) -> list[tuple[type, list[str]]]:
    nodes = [size.node for size in sizes if isinstance(size, SymInt)]
    return [(type(node), sorted(vars(node))) for node in nodes]


@pytest.mark.parametrize("is_contiguous", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_tensor_has_the_numbers_that_are_given(
    sizes: tuple[SymInt, ...], count: int, is_contiguous: bool
) -> None:
    shape = sizes[:count]
    stride: list[Any] = [1]
    for size in shape[:0:-1]:
        stride.insert(0, stride[0] * size)
    elements = torch.sym_sum([shape[0], stride[0]])
    before = attributes(sizes)
    tensor = make(shape, stride, elements, is_contiguous=is_contiguous)
    assert [size.node for size in tensor.shape] == [size.node for size in shape]
    assert [each.node for each in tensor.stride()[:-1]] == [each.node for each in stride[:-1]]
    assert tensor.numel().node is elements.node
    assert attributes(sizes) == before


@pytest.mark.parametrize("shape_of", [lambda s: (s[0], 0), lambda s: (s[0], s[1], 16)])
def test_numbers_multiply_again_after_a_surprise(shape_of: Any, sizes: tuple[SymInt, ...]) -> None:
    before = attributes(sizes)
    with pytest.raises(UnforeseenProductError):
        make(shape_of(sizes), (1, 1, 1)[: len(shape_of(sizes))], 3, is_contiguous=False)
    assert attributes(sizes) == before
    assert (sizes[0] * sizes[1]).node.hint == 30


def test_a_product_that_nobody_asked_for_is_a_surprise(
    sizes: tuple[SymInt, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = attributes(sizes)
    monkeypatch.setattr(_fakes, "make_wrapper", lambda *args, **kwargs: torch.empty(0))
    with pytest.raises(UnforeseenProductError):
        make(sizes[:1], (1,), sizes[0], is_contiguous=True)
    assert attributes(sizes) == before


def test_views_at_remembered_calls_share_storage() -> None:
    def rows(x: torch.Tensor) -> list[torch.Tensor]:
        return [x.select(0, 1).view(-1), x.select(0, 1).view(-1), x.t(), x.t()]

    graph = make_fx(rows, tracing_mode="symbolic")(torch.randn(8, 16)).graph
    values = [node.meta["val"] for node in graph.nodes if "val" in node.meta]
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    assert len(tensors) >= 6
    assert len({tensor.untyped_storage()._cdata for tensor in tensors}) == 1


def test_a_plain_view_of_a_tensor_with_symbolic_sizes() -> None:
    fake_mode = FakeTensorMode(shape_env=ShapeEnv())
    whole = fake_mode.from_tensor(torch.arange(20.0)[5:15])
    with torch._C._DisableTorchDispatch():
        view = FakeFactory(fake_mode).view(whole, (2, 2), (1, 2), 0, whole.dtype, whole.device)
    assert (view.shape, view.stride()) == ((2, 2), (1, 2))
    assert view.untyped_storage()._cdata == whole.untyped_storage()._cdata


def test_a_new_number_multiplies_whatever_its_example_does_meanwhile(
    sizes: tuple[SymInt, ...],
) -> None:
    numbers = (sizes[0], 1, 0, sizes[0])
    products = Products(numbers, 1, is_contiguous=False)
    products.announce(numbers)
    made = NewNumber(0, sizes[0]).make()
    products.withdraw()
    assert made.node is not sizes[0].node
    assert type(made.node) is type(sizes[0].node)
    assert (made * sizes[1]).node.expr == (sizes[0] * sizes[1]).node.expr


def test_for_other_threads_numbers_multiply_as_ever(sizes: tuple[SymInt, ...]) -> None:
    rows, columns, _ = sizes
    elements = torch.sym_sum([rows, columns])
    answers: list[Any] = []

    def compute() -> None:
        answers.append((rows * columns, torch.sym_max(rows, 3), rows * 2))

    numbers = (rows, columns, columns, 1, 0, elements)
    products = Products(numbers, 2, is_contiguous=False)
    products.announce(numbers)
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join()
    # What torch asks for while it makes the tensor.
    assert rows.node.mul(columns.node) is rows.node
    assert rows.node.mul(columns.node) is elements.node
    products.withdraw()
    ((product, largest, double),) = answers
    assert (product.node.hint, largest.node.hint, double.node.hint) == (30, 5, 10)


def test_a_number_is_not_adopted_while_it_answers(sizes: tuple[SymInt, ...]) -> None:
    rows = sizes[0]
    numbers = (rows, 1, 0, rows)
    products = Products(numbers, 1, is_contiguous=False)
    arithmetic = Arithmetic(rows.node.shape_env)
    products.announce(numbers)
    arithmetic.adopt(rows.node)
    assert rows.node.mul(rows.node) is rows.node
    products.withdraw()
    assert type(rows.node) is SymNode
    arithmetic.adopt(rows.node)
    assert type(rows.node) is RememberingInteger


def test_a_number_that_remembers_answers_and_remembers_again(sizes: tuple[SymInt, ...]) -> None:
    rows, columns, _ = sizes
    arithmetic = Arithmetic(rows.node.shape_env)
    for each in (rows, columns):
        arithmetic.adopt(each.node)
    # A size that stands twice among the sizes answers for both.
    tensor = make((rows, rows, columns), (columns, columns, 1), columns, is_contiguous=False)
    assert tensor.numel().node is columns.node
    assert (type(rows.node), type(columns.node)) == (RememberingInteger, RememberingInteger)


def test_a_number_that_remembers_keeps_no_other_thread_waiting(sizes: tuple[SymInt, ...]) -> None:
    rows, columns, _ = sizes
    arithmetic = Arithmetic(rows.node.shape_env)
    for each in (rows, columns):
        arithmetic.adopt(each.node)
    answers: list[Any] = []

    def compute() -> None:
        made = make((columns, rows), (rows, 1), columns, is_contiguous=False)
        answers.append((made.numel().node, (rows * columns).node.hint))

    numbers = (rows, columns, columns, 1, 0, rows)
    products = Products(numbers, 2, is_contiguous=False)
    products.announce(numbers)
    thread = threading.Thread(target=compute)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert rows.node.mul(columns.node) is rows.node
    assert rows.node.mul(columns.node) is rows.node
    products.withdraw()
    assert answers == [(columns.node, 30)]
    assert (rows * columns).node.hint == 30
