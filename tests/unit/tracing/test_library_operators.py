"""Operators from torch.library: one node each, with torch's graph around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import hopyard
from hopyard.errors import CaptureError

ops = torch.ops.hopyard_library


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6), torch.randn(4, 6)


def trained() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)


@pytest.fixture(scope="module", autouse=True)
def library() -> Iterator[None]:
    with torch.library._scoped_library("hopyard_library", "DEF") as made:
        define_by_schema(made)
        define_by_signature()
        yield


def define_by_schema(library: Any) -> None:
    for schema, dispatch_keys, kernel in (
        ("flat(Tensor(a) x) -> Tensor(a)", ("CPU", "Meta"), lambda x: x.view(-1)),
        ("increment(Tensor(a!) x) -> Tensor(a!)", ("CPU",), lambda x: x.add_(1)),
        ("increment_fake(Tensor(a!) x) -> Tensor(a!)", ("CPU", "Meta"), lambda x: x),
        ("implicit(Tensor x) -> Tensor", ("CompositeImplicitAutograd",), lambda x: x.sin() + 1),
        ("explicit(Tensor x) -> Tensor", ("CompositeExplicitAutograd",), lambda x: x.sin() + 1),
        ("times(Tensor x, *, int n=2) -> Tensor", ("CPU",), lambda x, *, n=2: torch.cat([x] * n)),
        ("where(Tensor x) -> Tensor", ("CPU",), lambda x: x.nonzero()),
    ):
        library.define(schema)
        for key in dispatch_keys:
            library.impl(schema.partition("(")[0], kernel, key)
    library.impl("increment", lambda x: x, "Meta")

    def fake_times(x: Tensor, *, n: int = 2) -> Tensor:
        return x.new_empty(x.shape[0] * n, *x.shape[1:])

    def fake_where(x: Tensor) -> Tensor:
        count = torch.library.get_ctx().new_dynamic_size()
        return x.new_empty((count, x.dim()), dtype=torch.int64)

    torch.library.register_fake("hopyard_library::times", fake_times, lib=library)
    torch.library.register_fake("hopyard_library::where", fake_where, lib=library)


def define_by_signature() -> None:
    @torch.library.custom_op("hopyard_library::scale_", mutates_args={"x"})
    def scale_(x: Tensor, factor: float) -> None:
        x.mul_(factor)

    @torch.library.custom_op("hopyard_library::copy_and_add", mutates_args={"out"})
    def copy_and_add(x: Tensor, out: Tensor) -> Tensor:
        out.copy_(x)
        return x + 1

    copy_and_add.register_fake(lambda x, out: torch.empty_like(x))

    @torch.library.custom_op("hopyard_library::with_number", mutates_args=())
    def with_number(x: Tensor) -> tuple[Tensor, int]:
        return x + 1, 3

    with_number.register_fake(lambda x: (torch.empty_like(x), 3))

    @torch.library.custom_op("hopyard_library::differentiable", mutates_args=())
    def differentiable(x: Tensor) -> Tensor:
        return x.sin()

    def keep(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    differentiable.register_fake(torch.empty_like)
    differentiable.register_autograd(
        lambda ctx, gradient: gradient * ctx.saved_tensors[0].cos(), setup_context=keep
    )
    differentiable.register_vmap(lambda info, dims, x: (torch.sin(x), dims[0]))

    @torch.library.custom_op("hopyard_library::cast_all", mutates_args=())
    def cast_all(
        values: list[Tensor], extra: Tensor | None = None, dtype: torch.dtype = torch.float32
    ) -> list[Tensor]:
        return [value.to(dtype, copy=True) for value in values]

    cast_all.register_fake(
        lambda values, extra=None, dtype=torch.float32: [
            torch.empty_like(value, dtype=dtype) for value in values
        ]
    )

    @torch.library.custom_op("hopyard_library::real_only", mutates_args=())
    def real_only(x: Tensor) -> Tensor:
        return x + 1


def scales_a_copy(x: Tensor, y: Tensor) -> Tensor:
    copy = x.clone()
    ops.scale_(copy, 2.0)
    return copy + y


def scales_an_input(x: Tensor, y: Tensor) -> Tensor:
    ops.scale_(x, 2.0)
    return x + y


PROGRAMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mutation": scales_a_copy,
    "mutation-of-an-input": scales_an_input,
    "mutation-and-result": lambda x, y: ops.copy_and_add(x, y) + y,
    "number-among-results": lambda x, y: ops.with_number(x),
    "lists-and-types": lambda x, y: ops.cast_all([x, y], None, torch.float64),
    "under-vmap": lambda x, y: torch.vmap(ops.differentiable)(x) + y,
    "view": lambda x, y: (ops.flat(x.clone()).add_(1), ops.flat(y)),
    "in-place": lambda x, y: ops.increment(x) + x + y,
    "in-place-twice": lambda x, y: ops.increment(ops.increment(x)) + x,
    "composite-implicit": lambda x, y: ops.implicit(x) + y,
    "composite-explicit": lambda x, y: ops.explicit(x) + y,
    "twice": lambda x, y: ops.times(x, n=3) + ops.times(y, n=3),
    "shape-of-data": lambda x, y: ops.where(x) + 1,
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_an_operator(program: Any, as_torch: Any) -> None:
    as_torch(program, fresh=pair)


GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "registered": lambda x: ops.differentiable(x),
    "composite": lambda x: ops.implicit(x),
}


@pytest.mark.parametrize("operator", GRADIENTS.values(), ids=GRADIENTS)
def test_its_gradient(operator: Any, as_torch: Any) -> None:
    as_torch(lambda x, y: torch.autograd.grad(operator(x).sum(), x), fresh=trained)


def test_a_mutation_stays_a_mutation(as_torch: Any) -> None:
    graph_module = as_torch(scales_an_input, fresh=pair)
    x, y = pair()
    expected = x * 2 + y
    assert graph_module(x, y).equal(expected)


@pytest.mark.parametrize("mode", ["fake", "symbolic"], indirect=True)
def test_an_operator_without_a_fake_kernel_is_refused_by_name(mode: Any) -> None:
    def program(x: Tensor) -> Tensor:
        hidden = x * 2
        result: Tensor = ops.real_only(hidden)
        return result

    with pytest.raises(CaptureError) as raised:
        hopyard.make_fx(program, tracing_mode=mode)(torch.ones(2))
    assert "real_only" in raised.value.operator
    assert raised.value.location is not None
    assert raised.value.location.file == __file__
    assert raised.value.partial_graph is not None
    assert "register_fake" in str(raised.value)


@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_an_operator_without_a_fake_kernel_is_captured_with_data(as_torch: Any) -> None:
    as_torch(lambda x, y: ops.real_only(x) + y, fresh=pair)
