"""Higher-order operators of the kinds that compilers have to carry, and calls of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from hopyard.hops import Operator, bind
from hopyard.testing import HopSample
from hopyard_hookspecs import Hop


def scaled(body: Callable[..., Any], *operands: Any, factor: float) -> Any:
    """The operator of the tutorial: it does more than run its body."""
    return factor * body(*operands)


class Reversed(torch.autograd.Function):
    """The identity with a gradient that autograd would not have found."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -3 * gradient

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return -3 * tangent


def reversing(body: Callable[..., Any], *operands: Any) -> Any:
    return Reversed.apply(body(*operands))


def configured(body: Callable[..., Any], *operands: Any, settings: Mapping[str, Any]) -> Any:
    """An operator whose configuration is what an object that may change says at the moment."""
    result = body(*operands)
    for name, value in settings["steps"].items():
        result = result * value if name == "times" else result + value
    return result


def operators() -> dict[str, tuple[Operator, Mapping[str, Any]]]:
    """Return the operators with the configuration of a call."""
    from hopyard_strict_mode import region

    settings = {"steps": {"times": 1.5, "plus": 2}}
    definitions: dict[str, tuple[Hop, Mapping[str, Any]]] = {
        "example": (Hop("compiled_tests__scaled", scaled), {"factor": 2.5}),
        "custom autograd": (Hop("compiled_tests__reversing", reversing), {}),
        "stateful configuration": (
            Hop("compiled_tests__configured", configured),
            {"settings": settings},
        ),
    }
    bound = {name: (bind(hop), config) for name, (hop, config) in definitions.items()}
    return {"strict_mode": (region, {}), **bound}


OPERATORS = operators()
TORCH_CANNOT = {
    "custom autograd": {"functionalize": "torch has no rule for autograd functions there"},
}
"""Surfaces on which a call does not work with torch's own operators either."""


def bodies() -> dict[str, Callable[..., Any]]:
    # torch's export writes guards that it cannot evaluate for tensors in global variables.
    weight = torch.linspace(-1.0, 1.0, 16).reshape(4, 4).requires_grad_()
    captured = torch.linspace(-1.0, 1.0, 12).reshape(3, 4).requires_grad_()
    return {
        "no closure": lambda x, y: (x * y).sin() + x,
        "closure": lambda x, y: (x @ weight) * captured + y.cos(),
    }


BODIES = bodies()


def operands() -> tuple[Tensor, Tensor]:
    values = torch.linspace(0.1, 2.4, 24).reshape(2, 3, 4)
    return values[0].clone(), values[1].clone()


def sample(operator: str, body: str) -> HopSample:
    return HopSample((BODIES[body], *operands()), OPERATORS[operator][1], name=body)
