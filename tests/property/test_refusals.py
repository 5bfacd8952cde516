"""Whatever safeguards find, and whatever comes of it, a capture leaves everything as it was."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import hopyard
from hopyard.errors import HopyardError
from hopyard_hookspecs import Policy

pytestmark = pytest.mark.filterwarnings("ignore")


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.clamp(-1, 1)


def in_block(mode: Callable[[], Any]) -> Callable[[Tensor], Tensor]:
    def step(x: Tensor) -> Tensor:
        with mode():
            y = x * 2
        return x + y.clone()

    return step


def switched(x: Tensor) -> Tensor:
    torch.set_grad_enabled(not torch.is_grad_enabled())
    return x * 2


def hooked(x: Tensor) -> Tensor:
    y = x * 2
    if y.requires_grad:
        y.register_hook(lambda gradient: gradient * 2)
    return y


def detached(x: Tensor) -> Tensor:
    y = x * 2
    y.detach_()
    return y + x


def given_other_data(x: Tensor) -> Tensor:
    y = x * 2
    y.data = x.detach() + 1
    return y


def drawing(x: Tensor) -> Tensor:
    torch.manual_seed(7)
    return x + torch.rand(3) * random.random()


def counting(x: Tensor) -> Tensor:
    torch.set_default_dtype(torch.float64)
    return x + 1


def failing(x: Tensor) -> Tensor:
    raise ValueError("a step that fails")


STEPS: tuple[Callable[[Tensor], Tensor], ...] = (
    torch.sin,
    drawing,
    counting,
    switched,
    hooked,
    detached,
    given_other_data,
    Clipped.apply,
    failing,
    in_block(torch.no_grad),
    in_block(torch.enable_grad),
    in_block(torch.inference_mode),
    in_block(lambda: torch.autocast("cpu")),
    in_block(lambda: torch.autocast("cpu", enabled=False)),
    in_block(lambda: hopyard.allow("HY101", "HY113", reason="anything goes")),
)


class Model(nn.Module):
    """Layers with state, and the steps between them; some swallow what they raise."""

    def __init__(self, steps: list[tuple[int, bool]]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.linear = nn.Linear(3, 3)
        self.steps = steps
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += 1
        x = self.linear(self.norm(x))
        for index, careless in self.steps:
            try:
                x = STEPS[index](x)
            except Exception:
                if not careless:
                    raise
        return x


def state_of(model: Model, x: Tensor) -> list[Any]:
    tensors = [*model.parameters(), *model.buffers(), x]
    return [
        [(id(each), each.tolist(), each.requires_grad, each._version) for each in tensors],
        [each.grad for each in tensors],
        [each._backward_hooks for each in tensors],
        (model.seen, model.training),
        torch.random.get_rng_state().tolist(),
        random.getstate(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        torch.get_default_dtype(),
        _get_current_dispatch_mode_stack(),
        _get_current_function_mode_stack(),
    ]


@given(
    steps=st.lists(st.tuples(st.integers(0, len(STEPS) - 1), st.booleans()), max_size=5),
    policy=st.sampled_from(Policy),
    training=st.booleans(),
    grad=st.booleans(),
    autocast=st.booleans(),
    needs_grad=st.booleans(),
)
def test_a_capture_leaves_everything_as_it_was(
    steps: list[tuple[int, bool]],
    policy: Policy,
    training: bool,
    grad: bool,
    autocast: bool,
    needs_grad: bool,
) -> None:
    session = hopyard.Session()
    model = Model(steps).train(training)
    x = torch.ones(4, 3, requires_grad=needs_grad)
    with torch.set_grad_enabled(grad), torch.autocast("cpu", enabled=autocast):
        before = state_of(model, x)
        with warnings.catch_warnings(), suppress(HopyardError):
            warnings.simplefilter("ignore")
            session.capture(model, (x,), policy=policy)
        assert state_of(model, x) == before
