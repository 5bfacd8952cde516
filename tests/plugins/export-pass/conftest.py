"""A session with the plugin, a region operator, and programs of many kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hopyard_export_pass._plugin
from hopyard import Program, Session
from hopyard.hops import bind
from hopyard_hookspecs import Hop

REGION = Hop("export_pass_tests__region")
SCALED = Hop("export_pass_tests__scaled", lambda body, *xs, factor: factor * body(*xs))
region = bind(REGION)
scaled = bind(SCALED)


@pytest.fixture(scope="session")
def session() -> Session:
    return Session(discover=False, plugins=[hopyard_export_pass._plugin])


@pytest.fixture
def capture(session: Session) -> Callable[..., Program]:
    def capture(target: Callable[..., Any], *args: Any) -> Program:
        with torch.no_grad():
            return session.capture(target, args)

    return capture


@pytest.fixture(autouse=True)
def without_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


class Classifier(nn.Module):
    """Convolution, batch norm, dropout, tied weights and a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.first = nn.Linear(4, 4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, image: Tensor) -> Tensor:
        features = torch.relu(self.norm(self.convolution(image)))
        pooled = self.dropout(features).mean((2, 3))
        return torch.log_softmax(self.second(torch.sin(self.first(pooled))), -1)


class Counter(nn.Module):
    """Changes a buffer in place and rebinds another."""

    calls: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean = self.mean * 0.5 + torch.sin(x).mean(0)
        return x - self.mean


def several(x: Tensor) -> tuple[Any, ...]:
    values, indices = torch.topk(x, 2, dim=1)
    largest, where = x.max(dim=1)
    left, right = torch.split(torch.sin(x), [1, 3], dim=1)
    return values + left, indices, largest, where, right


def mixed_outputs(x: Tensor) -> tuple[Any, ...]:
    return x, None, 3, torch.sin(x), x


def no_inputs() -> Tensor:
    return torch.sin(torch.ones(3)) + torch.tensor([1.0, 2.0, 3.0])


def with_region(x: Tensor, y: Tensor) -> Tensor:
    outside = torch.sin(x)
    constant = torch.tensor([[2.0]])
    return scaled(lambda t: torch.sin(t) * outside + y + constant, x, factor=3.0) + outside


def nested_regions(x: Tensor) -> Tensor:
    return region(lambda t: region(lambda u: torch.sin(u) + t, torch.sin(t)) * 2, x)


def attention(q: Tensor, k: Tensor) -> Tensor:
    out = nn.functional.scaled_dot_product_attention(q, k, k)
    return out.transpose(1, 2).reshape(q.shape[0], q.shape[2], -1)


PROGRAMS: dict[str, tuple[Callable[[], Callable[..., Any]], Callable[[], tuple[Any, ...]]]] = {
    "classifier": (lambda: Classifier().eval(), lambda: (torch.randn(2, 3, 8, 8),)),
    "counter": (Counter, lambda: (torch.randn(4, 3),)),
    "several": (lambda: several, lambda: (torch.randn(3, 4),)),
    "mixed-outputs": (lambda: mixed_outputs, lambda: (torch.randn(2, 2),)),
    "no-inputs": (lambda: no_inputs, tuple),
    "region": (lambda: with_region, lambda: (torch.randn(2, 3), torch.randn(2, 3))),
    "nested-regions": (lambda: nested_regions, lambda: (torch.randn(3),)),
    "attention": (lambda: attention, lambda: (torch.randn(2, 2, 5, 4), torch.randn(2, 2, 5, 4))),
}


@pytest.fixture(params=PROGRAMS)
def case(request: pytest.FixtureRequest) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function or module, and example inputs."""
    target, inputs = PROGRAMS[request.param]
    return target(), inputs()


@pytest.fixture(params=[name for name in PROGRAMS if "region" not in name])
def flat_case(request: pytest.FixtureRequest) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function or module without regions, and example inputs."""
    target, inputs = PROGRAMS[request.param]
    return target(), inputs()
