"""Random numbers, autocast, inference and grad modes inside and around captures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import hopyard


def pair() -> tuple[Tensor, Tensor]:
    return torch.randn(4, 6), torch.randn(4, 6)


def autocasts(x: Tensor, y: Tensor) -> Any:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = x @ y.t()
        second = x @ y.t()
        with torch.autocast("cpu", enabled=False):
            third = x @ y.t()
    return first.float() + second, third


def infers(x: Tensor, y: Tensor) -> Any:
    with torch.inference_mode():
        hidden = x * 2
        hidden.add_(1)
    with torch.inference_mode(False):
        return x.clone() + y


def seeds(x: Tensor, y: Tensor) -> Any:
    torch.manual_seed(1)
    before = torch.rand(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inside = torch.rand(4, 6)
    return x + inside, torch.rand(3), before


def forbids_gradients(x: Tensor, y: Tensor) -> Any:
    leaf = x.detach().requires_grad_()
    with torch.no_grad():
        scale = (leaf * y).sum()
        with torch.enable_grad():
            kept = leaf.sin()
    return torch.autograd.grad((kept * scale).sum(), leaf)


PROGRAMS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "autocast": autocasts,
    "inference": infers,
    "seeds": seeds,
    "gradients": forbids_gradients,
    "random-in-place": lambda x, y: (x.uniform_(), y.bernoulli_(0.5), x.normal_(0, 1)),
    "random-like": lambda x, y: (
        torch.randn_like(y),
        torch.bernoulli(torch.sigmoid(x)),
        torch.randperm(4),
        torch.normal(0.0, 1.0, (2,)),
        functional.rrelu(y, training=True),
    ),
    "random-state": lambda x, y: (torch.get_rng_state(), x + 1)[1],
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_inside(program: Any, as_torch: Any) -> None:
    as_torch(program, fresh=pair)


AROUND: dict[str, Callable[[], Any]] = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
    "no-grad": torch.no_grad,
    "default-device": lambda: torch.device("cpu"),
}


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_around(around: Any, as_torch: Any) -> None:
    def program(x: Tensor, y: Tensor) -> Any:
        return (x @ y.t()).t_(), torch.ones(2), x.add_(1)

    with around():
        as_torch(program, fresh=pair)


def test_an_inference_tensor_as_input(as_torch: Any) -> None:
    with torch.inference_mode():
        held = torch.ones(4, 6)
    as_torch(lambda x: (x * 2).view(-1), fresh=lambda: [held])


@pytest.mark.parametrize("mode", ["real"], indirect=True)
def test_an_inference_tensor_that_the_program_closes_over(as_torch: Any) -> None:
    with torch.inference_mode():
        held = torch.ones(4, 6)
    as_torch(lambda x: x * held, fresh=lambda: [torch.ones(4, 6)])


def test_the_random_state_is_what_eager_leaves(mode: Any) -> None:
    """A real capture draws what the program draws; one without data draws nothing."""

    def program(x: Tensor) -> Tensor:
        return x + torch.rand(3)

    torch.manual_seed(0)
    start = torch.get_rng_state()
    program(torch.ones(3))
    after_eager = torch.get_rng_state()
    torch.manual_seed(0)
    hopyard.make_fx(program, tracing_mode=mode)(torch.ones(3))
    expected = after_eager if mode == "real" else start
    assert torch.get_rng_state().equal(expected)
