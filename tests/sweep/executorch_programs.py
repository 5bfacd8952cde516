"""Programs that ExecuTorch's passes are run on, of ATen's operators and of its edge dialect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from executorch.exir import EdgeCompileConfig, to_edge
from sweep_models import ARCHITECTURES
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, export


class Pointwise(nn.Module):
    """Functions of one or two tensors, most of which some backend has to decompose."""

    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.rand(4) + 0.5)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        positive, small = x.abs() + 0.1, x.tanh() * 0.5
        one = [
            torch.acosh(positive + 1), torch.asin(small), torch.acos(small), torch.atanh(small),
            torch.asinh(x), torch.atan(x), torch.cosh(x), torch.sinh(x), torch.tan(small),
            torch.expm1(x), torch.log1p(positive), torch.log(positive), torch.logit(small + 0.5),
            torch.rsqrt(positive), torch.sqrt(positive), torch.reciprocal(positive), x.erf(),
            torch.sign(x), torch.round(x), torch.floor(x), torch.ceil(x), torch.trunc(x), x.neg(),
            x.erfinv(), x.square(), x**2, x**3, positive**0.5, x.sigmoid(), x.clamp(-0.5, 0.5),
            x.clamp(max=y), torch.nn.functional.gelu(x),
            torch.nn.functional.gelu(x, approximate="tanh"), torch.nn.functional.elu(x),
            torch.nn.functional.leaky_relu(x), torch.nn.functional.hardtanh(x),
            torch.nn.functional.hardswish(x), torch.nn.functional.hardsigmoid(x),
            torch.nn.functional.relu6(x), torch.nn.functional.silu(x), torch.nn.functional.relu(x),
            torch.nn.functional.glu(x), torch.nn.functional.celu(x),
            torch.nn.functional.softplus(x), torch.nn.functional.mish(x),
            torch.nn.functional.threshold(x, 0.1, 0.2), torch.nn.functional.log_softmax(x, -1),
            torch.nn.functional.softmax(x, -1), x.cumsum(0), x.isnan(), x.isinf(),
        ]  # fmt: skip
        two = [
            x / y, x // y, torch.div(x, y, rounding_mode="trunc"), torch.remainder(x, y),
            torch.fmod(x, y), torch.maximum(x, y), torch.minimum(x, y), torch.where(x > y, x, y),
            torch.atan2(x, y), torch.addcdiv(x, y, positive), torch.addcmul(x, y, y, value=0.5),
            x != y, x >= y, x < y, torch.add(x, y, alpha=2), torch.sub(x, y, alpha=2), x - 1.0,
            1.0 - x, x * self.scale, torch.logical_and(x > 0, y > 0),
            torch.logical_xor(x > 0, y < 0),
            (x > 0).logical_not(), x.masked_fill(y > 0, 1.0), torch.lerp(x, y, 0.5), x.pow(y.abs()),
            torch.floor_divide(x, 2.0), x.copysign(y), torch.hypot(x, y), torch.rsub(x, y, alpha=2),
        ]  # fmt: skip
        return (*one, *two)


class Reductions(nn.Module):
    """Reductions, shapes, choices and rearrangements."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        wide = x.unsqueeze(0).expand(2, -1, -1)
        return (
            x.sum(), x.sum(0), x.sum((0, 1), keepdim=True), x.mean(), x.mean(1), x.var(0), x.std(1),
            x.amax(0), x.amin((0, 1)), *x.max(1), *x.min(0), x.argmax(0), x.argmin(1), x.prod(0),
            x.any(1), x.all(), x.norm(), torch.linalg.vector_norm(x, dim=1), *x.topk(2),
            x.sort(0).values, x.t().contiguous(), x.permute(1, 0), x.transpose(0, 1) * 1,
            x.reshape(-1), x.view(1, -1, 4) + 1, x.flatten(), x.unsqueeze(1), x.squeeze(0),
            wide.clone(), wide + x, x.repeat(2, 3), x.flip(0), torch.cat([x, x], 1), x[:, 1:3],
            torch.stack([x, x.neg()]), x[:, -1], x.select(1, 0), x.index_select(0, _INDEX),
            x[_INDEX], x.gather(1, _INDEX.unsqueeze(1)), *x.split(2, 1), *x.chunk(2, 1),
            *x.unbind(1), x.roll(1),
            x.slice_scatter(x[:, :2], 1, 0, 2), x.select_scatter(x[:, 0], 1, 1), x.tril(), x.triu(),
            x.index_put((_INDEX,), x[:2]), torch.full_like(x, 2.0), torch.ones_like(x) + x,
            torch.zeros_like(x), x.new_full((2, 2), 1.0), torch.arange(0, 6, dtype=torch.float),
            torch.linspace(0, 1, 5), x.to(torch.float64), x.to(torch.int32) + 1, x.detach() + 1,
            torch.nn.functional.pad(x, (1, 2)), torch.nn.functional.pad(x, (1, 0), value=-1.0),
            torch.einsum("ij,kj->ik", x, x), x.clone(), x * 1, x + 0, x.new_zeros(3),
            torch.meshgrid(x[0], x[0], indexing="ij")[0],
            x.unfold(1, 2, 1) * 2, x.eq(x).sum(), torch.full((2, 3), 7), torch.eye(3),
            x.count_nonzero(),
        )  # fmt: skip


_INDEX = torch.tensor([0, 1])


class Layers(nn.Module):
    """Layers of vision models."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, groups=8), nn.GroupNorm(2, 8), nn.Hardswish(), nn.AvgPool2d(2),
            nn.ConvTranspose2d(8, 4, 2), nn.PReLU(), nn.InstanceNorm2d(4, affine=True),
            nn.PixelShuffle(2), nn.Conv2d(1, 4, 3, stride=2), nn.ReLU6(),
        )  # fmt: skip
        self.one = nn.Conv1d(4, 4, 3, padding=1)
        self.head = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.convolutions(x)
        wide = torch.nn.functional.interpolate(y, scale_factor=2.0, mode="nearest")
        smooth = torch.nn.functional.interpolate(y, size=(8, 8), mode="bilinear")
        pooled = torch.nn.functional.adaptive_avg_pool2d(y, 1).flatten(1)
        return self.head(pooled), wide, smooth, self.one(y.flatten(2)), y.mean((2, 3), keepdim=True)


class Attention(nn.Module):
    """A block of a language model, with an embedding and a cache that it writes."""

    cache: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(16, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.norm, self.root = nn.LayerNorm(8), nn.RMSNorm(8)
        self.register_buffer("cache", torch.zeros(1, 4, 8))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        x = self.norm(self.embedding(tokens))
        q, k, v = (
            layer(x).view(1, 4, 2, 4).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        y = self.root(y.transpose(1, 2).reshape(1, 4, 8) + x)
        self.cache.copy_(y)
        weights = torch.softmax(q @ k.transpose(-2, -1) / 2.0, -1)
        return (
            y,
            weights,
            torch.baddbmm(y, weights[:, 0], y),
            torch.addmm(y[0], weights[0, 0], y[0]),
        )


class Sizes(nn.Module):
    """Sizes that are symbols, and arithmetic with them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y = self.layer(x).relu()
        part = y.view(y.shape[0] * 2, 2)[: x.shape[0] * 2 - 1]
        made = torch.full((x.shape[0] + 1, 2), 3.0) / (x.shape[0] // 2)
        return part + x.shape[0], made, y.mean(0), torch.full_like(y, 1), y.flatten()


class Regions(nn.Module):
    """A condition, a loop, a mapped body and a scan."""

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        from functorch.experimental.control_flow import map as mapped
        from torch._higher_order_ops.scan import scan
        from torch._higher_order_ops.while_loop import while_loop

        chosen = torch.cond(x.sum() > 0, lambda y: y.sin() / 2, lambda y: y.clone().expm1(), (x,))
        count, value = while_loop(
            lambda i, y: i < 3, lambda i, y: (i + 1, y.tanh() * 2.0), (torch.tensor(0), chosen)
        )
        rows = mapped(lambda row, t: row.sqrt() + t.sum(), value.abs() + 1, x)
        carried, steps = scan(lambda c, y: (c + y, (c * y).log1p()), x[0].abs(), x.abs(), dim=0)
        return chosen, count, value, rows, carried, steps


class Data(nn.Module):
    """Numbers and sizes that depend on data."""

    def forward(self, x: Tensor, n: Tensor) -> tuple[Tensor, ...]:
        found = (x > 0).nonzero()
        length = n.item()
        torch._check(length >= 2)
        torch._check(length <= 4)
        return found + 1, torch.full((length,), 2.0), x.masked_select(x > 0).relu()


def _shaped(*shape: int) -> Tensor:
    count = int(torch.tensor(shape).prod())
    return torch.linspace(-1, 1.5, count).reshape(shape)


_ROWS = {0: Dim("rows", min=2, max=64)}


def _exported(make: Callable[[], nn.Module], *inputs: Tensor, **options: Any) -> ExportedProgram:
    torch.manual_seed(0)
    with torch.no_grad():
        return export(make().eval(), inputs, strict=False, **options)


def _quantized(make: Callable[[], nn.Module], *inputs: Tensor) -> ExportedProgram:
    """Return a program that a quantizer of ExecuTorch has put quantized values into."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config())
    prepared = prepare_pt2e(_exported(make, *inputs).module(), quantizer)
    prepared(*inputs)
    with torch.no_grad():
        return export(convert_pt2e(prepared), inputs, strict=False)


def _model(name: str) -> ExportedProgram:
    architecture = ARCHITECTURES[name]
    with torch.no_grad():
        return export(architecture.make(), (), architecture.inputs(), strict=False)


ATEN: dict[str, Callable[[], ExportedProgram]] = {
    "pointwise": lambda: _exported(Pointwise, _shaped(3, 4), _shaped(3, 4) * 2 + 3),
    "reductions": lambda: _exported(Reductions, _shaped(3, 4)),
    "layers": lambda: _exported(Layers, _shaped(2, 4, 16, 16)),
    "attention": lambda: _exported(Attention, torch.tensor([[1, 2, 3, 5]])),
    "sizes": lambda: _exported(Sizes, _shaped(6, 4), dynamic_shapes=(_ROWS,)),
    "pointwise, dynamic": lambda: _exported(
        Pointwise, _shaped(3, 4), _shaped(3, 4) * 2 + 3, dynamic_shapes=(_ROWS, _ROWS)
    ),
    "regions": lambda: _exported(Regions, _shaped(3, 4)),
    "data": lambda: _exported(Data, _shaped(3, 4), torch.tensor(3)),
    "quantized": lambda: _quantized(Layers, _shaped(2, 4, 16, 16)),
    "quantized attention": lambda: _quantized(Attention, torch.tensor([[1, 2, 3, 5]])),
    **{name: lambda name=name: _model(name) for name in ("gpt2", "llama", "vit")},
}
"""Programs of ATen's operators."""


def edge(program: ExportedProgram) -> ExportedProgram:
    """Return a program in the edge dialect."""
    manager = to_edge(program, compile_config=EdgeCompileConfig(_check_ir_validity=False))
    made: ExportedProgram = manager.exported_program()
    return made


PROGRAMS: dict[str, Callable[[], ExportedProgram]] = {
    **ATEN,
    **{f"{name}, edge": lambda make=make: edge(make()) for name, make in ATEN.items()},
}
