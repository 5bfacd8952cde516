"""Gradients that a backend computes itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.testing import assert_close

import hopyard
from hopyard.errors import ProgramError
from hopyard_executorch_delegate import LoweredModule, call_delegate
from hopyard_hookspecs import Lowered, Support

X = torch.linspace(-1, 1, 6).reshape(2, 3)
WEIGHT = torch.linspace(1, 2, 3)


def scaled(x: Tensor, weight: Tensor) -> tuple[Any, ...]:
    return x * weight, (x * weight).argmax(-1), None


class Differentiating:
    """Runs the reference graph and has a backward, ten times too large to be recognised."""

    calls = 0
    factor = 10

    def supports(self, node: Any) -> Support:
        return Support(True)

    def lower(self, partition: Any, options: Any) -> Lowered:
        return Lowered(partition, "differentiating", b"")

    def run(self, lowered: Lowered, *operands: Any) -> tuple[Any, ...]:
        assert not torch.is_grad_enabled()
        return lowered.original_module(*operands)

    def backward(self, lowered: Lowered, operands: Any, gradients: Any) -> tuple[Any, ...]:
        self.calls += 1
        x, weight = operands
        product, *others = gradients
        assert others == [None, None]
        return self.factor * product * weight, self.factor * (product * x).sum(0)


def lowered(backend: Any = None) -> LoweredModule:
    backend = backend or Differentiating()
    with torch.no_grad():
        graph_module = hopyard.make_fx(scaled, tracing_mode="fake")(X, WEIGHT)
    return LoweredModule(backend.lower(graph_module, {}), backend)


def leaves(*wanted: bool) -> list[Tensor]:
    pairs = zip((X, WEIGHT), wanted, strict=True)
    return [tensor.clone().requires_grad_(want) for tensor, want in pairs]


@pytest.mark.parametrize("wanted", [(True, True), (True, False), (False, True)])
def test_autograd_calls_it(wanted: tuple[bool, bool]) -> None:
    x, weight = leaves(*wanted)
    product, argmax, nothing = call_delegate(lowered(), x, weight)
    assert (product.requires_grad, argmax.requires_grad, nothing) == (True, False, None)
    product.sum().backward()
    expected = (10 * WEIGHT.expand(2, 3), 10 * X.sum(0))
    found = (x.grad, weight.grad)
    assert_close(
        found, tuple(e if want else None for e, want in zip(expected, wanted, strict=True))
    )


def test_nobody_calls_it_without_gradients() -> None:
    backend = Differentiating()
    module = lowered(backend)
    with torch.no_grad():
        call_delegate(module, *leaves(True, True))
    call_delegate(module, X, WEIGHT)
    assert backend.calls == 0


def test_what_is_differentiated_again_is_the_reference_graph() -> None:
    backend = Differentiating()
    backend.factor = 1
    x, weight = leaves(True, True)
    product, *_ = call_delegate(lowered(backend), x, weight)
    (first,) = torch.autograd.grad(product.square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), weight)
    x2, weight2 = leaves(True, True)
    (first2,) = torch.autograd.grad(scaled(x2, weight2)[0].square().sum(), x2, create_graph=True)
    (second2,) = torch.autograd.grad(first2.sum(), weight2)
    assert_close((first, second), (first2, second2))


@pytest.mark.filterwarnings("ignore:.*jit.script:DeprecationWarning")
def test_forward_mode_sees_the_reference_graph() -> None:
    with forward_ad.dual_level():
        x = forward_ad.make_dual(X.clone().requires_grad_(), torch.ones_like(X))
        product, *_ = call_delegate(lowered(), x, WEIGHT)
        assert_close(forward_ad.unpack_dual(product).tangent, WEIGHT.expand(2, 3))


def test_an_operand_that_is_returned_as_it_is_gets_its_gradient() -> None:
    class Same(Differentiating):
        def backward(self, lowered: Any, operands: Any, gradients: Any) -> Any:
            return (gradients[0],)

    with torch.no_grad():
        graph_module = hopyard.make_fx(lambda x: (x,), tracing_mode="fake")(X)
    backend = Same()
    module = LoweredModule(backend.lower(graph_module, {}), backend)
    x = X.clone().requires_grad_()
    (output,) = call_delegate(module, x)
    (output * 3).sum().backward()
    assert_close(x.grad, torch.full_like(X, 3))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "a NoneType"),
        ((X,), "1 gradients for 2 operands"),
        ((X.double(), WEIGHT), r"float64\[2, 3\] on cpu for operand 0, which is float32"),
        ((X, X), r"float32\[2, 3\] on cpu for operand 1, which is float32\[3\]"),
        ((X, 3), "int for operand 1"),
    ],
)
def test_a_backward_that_returns_something_else_is_named(returned: Any, said: str) -> None:
    class Lying(Differentiating):
        def backward(self, lowered: Any, operands: Any, gradients: Any) -> Any:
            return returned

    product, *_ = call_delegate(lowered(Lying()), *leaves(True, True))
    with pytest.raises(ProgramError, match=f"'differentiating' returned .*{said}"):
        product.sum().backward()


def test_a_backward_that_raises_is_named() -> None:
    class Broken(Differentiating):
        def backward(self, lowered: Any, operands: Any, gradients: Any) -> Any:
            raise RuntimeError("no power")

    product, *_ = call_delegate(lowered(Broken()), *leaves(True, True))
    with pytest.raises(RuntimeError, match="no power") as caught:
        product.sum().backward()
    assert "backward of a partition" in caught.value.__notes__[0]


def test_a_tracer_records_the_call_and_the_gradient_of_the_reference_graph() -> None:
    module = lowered()

    def gradient(x: Tensor) -> Tensor:
        x = x.detach().requires_grad_()
        (found,) = torch.autograd.grad(call_delegate(module, x, WEIGHT)[0].sum(), x)
        return found

    assert_close(hopyard.make_fx(gradient)(X)(X), WEIGHT.expand(2, 3))
