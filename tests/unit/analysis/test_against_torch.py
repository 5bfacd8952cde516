"""Operations are those that torch's counter counts while the program runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import hopyard
from hopyard.analysis import CostReport, cost_of


def counted(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, int]:
    """Return what torch counts, by operator."""
    with FlopCounterMode(display=False) as counter:
        function(*args, **kwargs)
    counts = counter.get_flop_counts().get("Global", {})
    return {str(packet): flops for packet, flops in counts.items() if flops}


def by_packet(report: CostReport) -> dict[str, Any]:
    flops: dict[str, Any] = {}
    for row in report.operators:
        name = row.name.rpartition(".")[0]
        if row.cost.flops:
            flops[name] = flops.get(name, 0) + row.cost.flops
    return flops


def convolutions() -> tuple[nn.Module, tuple[Any, ...]]:
    model = nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, groups=2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 6, 3, stride=2, dilation=2, groups=2),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 4, (1, 3), padding="same"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )
    return model, (torch.randn(3, 4, 17, 13),)


def lines_and_volumes() -> tuple[nn.Module, tuple[Any, ...]]:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.line = nn.Conv1d(3, 5, 4)
            self.back = nn.ConvTranspose1d(5, 2, 4, stride=3)
            self.volume = nn.Conv3d(1, 2, 2)

        def forward(self, x: Tensor, y: Tensor) -> Any:
            return self.back(self.line(x)), self.volume(y), self.line(x[0])

    return Model(), (torch.randn(2, 3, 9), torch.randn(2, 1, 4, 5, 6))


def products() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    def program(a: Tensor, b: Tensor, c: Tensor) -> Any:
        product = torch.einsum("bij,bjk,kl->bil", a, b, c)
        added = torch.baddbmm(product, a, b @ c)
        summed = torch.addmm(added[0], a[0], (b @ c)[0])
        return torch.nn.functional.bilinear(a[0], b[0][:3], torch.ones(2, 4, 5)), summed

    return program, (torch.randn(2, 3, 4), torch.randn(2, 4, 5), torch.randn(5, 6))


def recurrent() -> tuple[nn.Module, tuple[Any, ...]]:
    return nn.GRU(4, 5, num_layers=2, bidirectional=True), (torch.randn(3, 2, 4),)


def attention() -> tuple[nn.Module, tuple[Any, ...]]:
    layer = nn.TransformerDecoderLayer(16, 2, 24, batch_first=True)
    return layer, (torch.randn(2, 5, 16), torch.randn(2, 7, 16))


SMALL_MODELS = [convolutions, lines_and_volumes, products, recurrent, attention]


@pytest.mark.parametrize("make", SMALL_MODELS)
def test_a_program_counts_what_torch_counts_in_eager(make: Callable[[], Any]) -> None:
    function, args = make()
    with sdpa_kernel(SDPBackend.MATH):
        expected = counted(function, *args)
        program = hopyard.Session(discover=False).capture(function, args)
    assert by_packet(cost_of(program)) == expected != {}


@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export")
@pytest.mark.parametrize("make", SMALL_MODELS)
def test_so_does_a_graph_above_autograd(make: Callable[[], Any]) -> None:
    """It has operators that torch's counter takes apart while they run."""
    function, args = make()
    module = function if isinstance(function, nn.Module) else _Wrapped(function)
    with sdpa_kernel(SDPBackend.MATH):
        expected = counted(module, *args)
        report = cost_of(torch.export.export(module, args))
    assert report.total.flops == sum(expected.values())


class _Wrapped(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


@pytest.mark.parametrize("make", SMALL_MODELS)
def test_gradients_count_what_torch_counts_in_eager(make: Callable[[], Any]) -> None:
    function, args = make()
    module = function if isinstance(function, nn.Module) else _Wrapped(function)
    module.eval()  # its buffers stay as they are
    names = [name for name, _ in module.named_parameters()]
    values = [parameter.detach() for parameter in module.parameters()]
    inert = {name: buffer.clone() for name, buffer in module.named_buffers()}

    def step(parameters: list[Tensor], buffers: dict[str, Tensor], args: tuple[Tensor, ...]) -> Any:
        live = [value.detach().requires_grad_().clone() for value in (*parameters, *args)]
        state = {**dict(zip(names, live, strict=False)), **buffers}
        result = torch.func.functional_call(module, state, tuple(live[len(names) :]))
        leaves = result if isinstance(result, tuple) else (result,)
        return torch.autograd.grad(sum(leaf.sum() for leaf in leaves), live, allow_unused=True)

    with sdpa_kernel(SDPBackend.MATH):
        expected = counted(step, values, inert, args)
        graph_module = hopyard.make_fx(step, tracing_mode="fake")(values, inert, args)
    assert by_packet(cost_of(graph_module)) == expected != {}


CONFIGURATIONS = {
    "BertModel": ("BertConfig", {}, {"input_ids": (torch.long, (2, 6))}),
    "GPT2Model": ("GPT2Config", {"use_cache": False}, {"input_ids": (torch.long, (2, 6))}),
    "LlamaModel": (
        "LlamaConfig",
        {"use_cache": False, "num_key_value_heads": 1},
        {"input_ids": (torch.long, (2, 6))},
    ),
    "ViTModel": (
        "ViTConfig",
        {"image_size": 16, "patch_size": 8},
        {"pixel_values": (torch.float, (2, 3, 16, 16))},
    ),
    "ResNetModel": (
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 2]},
        {"pixel_values": (torch.float, (2, 3, 16, 16))},
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_a_model_of_transformers(name: str, implementation: str) -> None:
    transformers = pytest.importorskip("transformers", reason="the models are transformers'")
    config, settings, inputs = CONFIGURATIONS[name]
    small = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "vocab_size": 50,
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
    }
    if name == "ResNetModel" and implementation == "sdpa":
        pytest.skip("it has no attention")
    model = getattr(transformers, name)._from_config(
        getattr(transformers, config)(**{**small, **settings}), attn_implementation=implementation
    )
    example = {
        key: torch.randint(2, 50, shape) if dtype is torch.long else torch.randn(shape)
        for key, (dtype, shape) in inputs.items()
    }
    if "input_ids" in example:
        example["attention_mask"] = torch.ones(2, 6).long()
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        expected = counted(model.eval(), **example)
        program = hopyard.Session(discover=False).capture(model, (), example)
    report = cost_of(program)
    assert by_packet(report) == expected != {}
    assert not report.gaps


def test_attention_on_the_cpu_counts_as_elsewhere() -> None:
    """torch's counter has no formula for the operator that the CPU uses."""
    tensors = [torch.randn(2, 4, length, 8) for length in (5, 7, 7)]
    attend = torch.nn.functional.scaled_dot_product_attention
    with sdpa_kernel(SDPBackend.MATH):
        expected = counted(attend, *tensors)

    def gradient(*tensors: Tensor) -> Any:
        live = [tensor.detach().requires_grad_() for tensor in tensors]
        return torch.autograd.grad(attend(*live).sum(), live)

    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        assert counted(attend, *tensors) == {}
        report = cost_of(hopyard.make_fx(attend, tracing_mode="fake")(*tensors))
        backward = cost_of(hopyard.make_fx(gradient, tracing_mode="fake")(*tensors))
    assert [row.name for row in report.operators] == [
        "aten._scaled_dot_product_flash_attention_for_cpu.default"
    ]
    assert report.total.flops == sum(expected.values())
    assert backward.total.flops == report.total.flops * 7 // 2


def test_products_with_vectors_count_though_torch_leaves_them_out() -> None:
    def program(a: Tensor, b: Tensor) -> Any:
        return a @ b, b @ b, torch.addmv(b[:3], a, b), torch.vdot(b, b)

    args = (torch.randn(3, 4), torch.randn(4))
    assert counted(program, *args) == {}
    report = cost_of(hopyard.make_fx(program, tracing_mode="fake")(*args))
    assert by_packet(report) == {
        "aten.mv": 24,
        "aten.dot": 8,
        "aten.addmv": 24,
        "aten.vdot": 8,
    }


def test_a_product_in_place_counts_as_any_other() -> None:
    def program(a: Tensor, b: Tensor) -> Tensor:
        return a.clone().addmm_(a, b)

    report = cost_of(
        hopyard.make_fx(program, tracing_mode="fake")(torch.ones(4, 4), torch.ones(4, 4))
    )
    assert by_packet(report) == {"aten.addmm_": 2 * 4 * 4 * 4}
