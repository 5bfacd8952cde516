"""Graphs that passes are compared on: of models, and of everything else a graph may hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sweep_models import ARCHITECTURES
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard

MODELS = (
    "gpt2",
    "llama",
    "qwen2",
    "mistral",
    "gemma",
    "opt",
    "bert",
    "roberta",
    "distilbert",
    "t5",
    "bart",
    "vit",
)


class Small(nn.Module):
    """Activations, several results, products and a buffer."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = torch.relu(self.linear(x)) * self.scale
        largest, where = torch.sin(y + x).max(dim=1)
        return torch.softmax(torch.tanh(y), -1), largest, where


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.convolution(x))).mean((2, 3))


class Condition(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = torch.sin(x) + y
        return torch.cond(z.sum() > 0, lambda t: torch.sin(t) + 1, lambda t: torch.cos(t), (z,))


class Mapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        from torch._higher_order_ops.map import map as torch_map

        return torch_map(lambda row, t: torch.sin(row) + t.sum(), torch.relu(x), x)


class Sizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(x).view(-1, x.shape[0] * 2)
        return torch.sin(y[: y.shape[0] - 1]) * x.shape[0]


class Data(nn.Module):
    """Sizes that depend on data."""

    def forward(self, x: Tensor) -> Tensor:
        count = x[0].item()
        torch._check_is_size(count)
        torch._check(count < 10)
        return torch.sin(torch.zeros(count + 1)) + torch.relu(torch.nonzero(x).sum())


class Quantized(nn.Module):
    """Rounds to whole numbers and back, as quantized graphs do."""

    def forward(self, x: Tensor) -> Tensor:
        import torch.ao.quantization.fx._decomposed

        operators = torch.ops.quantized_decomposed
        for _ in range(2):
            rounded = operators.quantize_per_tensor.default(x, 0.1, 3, -128, 127, torch.int8)
            x = operators.dequantize_per_tensor.default(rounded, 0.1, 3, -128, 127, torch.int8)
            x = torch.relu(torch.sin(x) + 1)
        return x


def training(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
    given = [each.detach().requires_grad_() for each in (x, weight)]
    loss = torch.tanh(torch.relu(given[0] @ given[1])).sum()
    return torch.autograd.grad(loss, given)


def in_place(x: Tensor) -> Tensor:
    y = torch.sin(x)
    y[0].mul_(2)
    return torch.relu(y.add_(1).t()).contiguous()


def exported(module: nn.Module, *args: Any, dynamic: Any = None, **kwargs: Any) -> GraphModule:
    with torch.no_grad():
        program = torch.export.export(module.eval(), args, kwargs, dynamic_shapes=dynamic)
        return program.run_decompositions({}).graph_module


def captured(target: Callable[..., Any], *args: Any, **options: Any) -> GraphModule:
    with torch.no_grad():
        return hopyard.Session().capture(target, args, **options).graph_module


def of_model(name: str) -> GraphModule:
    """Return a tiny model of an architecture, exported."""
    architecture = ARCHITECTURES[name]
    return exported(architecture.make(), **architecture.inputs())


BATCH = {0: Dim.DYNAMIC}
PROGRAMS: dict[str, Callable[[], GraphModule]] = {
    "small": lambda: exported(Small(), torch.randn(3, 4)),
    "small, captured": lambda: captured(Small().eval(), torch.randn(3, 4)),
    "small, dynamic": lambda: exported(Small(), torch.randn(3, 4), dynamic=(BATCH,)),
    "small, captured dynamic": lambda: captured(
        Small().eval(), torch.randn(3, 4), dynamic_shapes=(BATCH,)
    ),
    "convolution": lambda: exported(Convolution(), torch.randn(2, 3, 8, 8)),
    "condition": lambda: exported(Condition(), torch.randn(3), torch.randn(3)),
    "map": lambda: exported(Mapped(), torch.randn(3, 2)),
    "sizes": lambda: exported(Sizes(), torch.randn(4, 6), dynamic=(BATCH,)),
    "sizes, made": lambda: torch_make_fx(Sizes(), tracing_mode="symbolic")(torch.randn(4, 6)),
    "data": lambda: exported(Data(), torch.tensor([3, 0, 2])),
    "quantized": lambda: exported(Quantized(), torch.randn(3, 4)),
    "quantized, dynamic": lambda: exported(Quantized(), torch.randn(3, 4), dynamic=(BATCH,)),
    "training": lambda: torch_make_fx(training, tracing_mode="fake")(
        torch.randn(3, 4), torch.randn(4, 2)
    ),
    "in place": lambda: torch_make_fx(in_place, tracing_mode="fake")(torch.randn(3, 4)),
    "in place, ours": lambda: hopyard.make_fx(in_place, tracing_mode="fake")(torch.randn(3, 4)),
    **{name: (lambda name=name: of_model(name)) for name in MODELS},  # type: ignore[misc]
}
