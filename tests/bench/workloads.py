"""Programs whose capture is timed. Each workload is a function of tensors with example inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Workload:
    """A program to capture.

    Attributes:
        function: Takes tensors only.
        inputs: Example inputs.
        family: What it stands for in the results.
    """

    function: Callable[..., Any]
    inputs: tuple[Tensor, ...]
    family: str


def pointwise_chain(length: int) -> Workload:
    """`length` pointwise operators in a row."""

    def chain(x: Tensor, y: Tensor) -> Tensor:
        for _ in range(length // 4):
            x = torch.sigmoid(torch.relu(x + y) * 0.5)
        return x

    family = "chain" if length >= 1000 else "small"
    return Workload(chain, (torch.randn(8, 16), torch.randn(8, 16)), family)


def mixed_chain(length: int) -> Workload:
    """Matrix products, views, indexing and in-place operators."""

    def mixed(x: Tensor, weight: Tensor) -> Tensor:
        for _ in range(length // 10):
            y = (x @ weight).view(4, 2, 16).transpose(0, 1).reshape(8, 16)
            y = torch.softmax(y, -1)
            y[0] = x[1]
            y.mul_(0.5).add_(x)
            x = torch.tanh(y)
        return x

    return Workload(mixed, (torch.randn(8, 16), torch.randn(16, 16)), "mixed")


def reading_parameters(count: int) -> Workload:
    """Reads each of `count` parameters that the function closes over."""
    parameters = nn.ParameterList([nn.Parameter(torch.randn(16)) for _ in range(count)])

    def read(x: Tensor) -> Tensor:
        with torch.no_grad():
            for parameter in parameters:
                x = x * parameter
        return x

    return Workload(read, (torch.randn(16),), "small")


def gpt2(layers: int) -> Workload:
    """A small GPT-2 with random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=layers,
        n_head=2,
        n_embd=32,
        vocab_size=100,
        n_positions=64,
        use_cache=False,
        attn_implementation="eager",
    )
    return _language_model(GPT2LMHeadModel(config).eval(), layers)


def llama(layers: int) -> Workload:
    """A small Llama with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=2,
        num_key_value_heads=2,
        vocab_size=100,
        max_position_embeddings=64,
        use_cache=False,
        attn_implementation="eager",
    )
    return _language_model(LlamaForCausalLM(config).eval(), layers)


def resnet50() -> Workload:
    """ResNet-50's structure, narrow."""
    return _resnet([3, 4, 6, 3])


def resnet101() -> Workload:
    """ResNet-101's structure, narrow."""
    return _resnet([3, 4, 23, 3])


def _resnet(depths: list[int]) -> Workload:
    from transformers import ResNetConfig, ResNetModel

    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 8, 8],
        depths=depths,
        layer_type="bottleneck",
    )
    return _with_parameters(ResNetModel(config).eval(), (torch.randn(1, 3, 32, 32),), "small")


def mlp_training(depth: int) -> Workload:
    """Forward and backward of a perceptron with layer norms."""
    layers = [layer for _ in range(depth) for layer in _perceptron_layer()]
    module = nn.Sequential(*layers)
    names = [name for name, _ in module.named_parameters()]

    def step(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        output = torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))
        return torch.autograd.grad(output.sum(), parameters)

    return Workload(step, (torch.randn(8, 16), *_leaves(module)), "small")


def gpt2_training(layers: int) -> Workload:
    """Forward and backward of a small GPT-2."""
    workload = gpt2(layers)
    inputs = [
        value.detach().clone().requires_grad_() if value.is_floating_point() else value
        for value in workload.inputs
    ]

    def step(*inputs: Tensor) -> tuple[Tensor, ...]:
        trainable = [value for value in inputs if value.requires_grad]
        loss = workload.function(*inputs)[0].float().pow(2).mean()
        return torch.autograd.grad(loss, trainable)

    return Workload(step, tuple(inputs), "small")


def distinct_sizes(count: int) -> Workload:
    """480 pointwise operators on tensors of `count` different sizes."""

    def rounds(*inputs: Tensor) -> list[Tensor]:
        values = list(inputs)
        for _ in range(480 // 3 // count):
            values = [torch.sigmoid(torch.relu(value + 1.0)) for value in values]
        return values

    return Workload(rounds, tuple(torch.randn(size + 5, 16) for size in range(count)), "symbols")


def concatenations(count: int) -> Workload:
    """`count` concatenations in a row: sizes are expressions that grow."""

    def grows(x: Tensor, y: Tensor) -> Tensor:
        for _ in range(count):
            x = torch.cat([x, y])
        return x

    return Workload(grows, (torch.randn(4, 3), torch.randn(5, 3)), "symbols")


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "chain-200": lambda: pointwise_chain(200),
    "chain-1000": lambda: pointwise_chain(1000),
    "chain-4000": lambda: pointwise_chain(4000),
    "mixed-1000": lambda: mixed_chain(1000),
    "gpt2-4": lambda: gpt2(4),
    "gpt2-24": lambda: gpt2(24),
    "llama-4": lambda: llama(4),
    "llama-24": lambda: llama(24),
    "resnet-50": resnet50,
    "mlp-training": lambda: mlp_training(12),
    "gpt2-training": lambda: gpt2_training(4),
}
"""Makes each workload, by name."""


def _language_model(module: nn.Module, layers: int) -> Workload:
    tokens = torch.randint(0, 100, (2, 16))
    # Without a mask the models look for packed sequences in the positions' values.
    mask = torch.ones(2, 16, dtype=torch.int64)
    family = "24 layers" if layers >= 24 else "small"
    return _with_parameters(module, (tokens, mask), family, ("input_ids", "attention_mask"))


def _perceptron_layer() -> tuple[nn.Module, ...]:
    return nn.Linear(16, 16), nn.GELU(), nn.LayerNorm(16)


def _leaves(module: nn.Module) -> list[Tensor]:
    return [value.detach().clone().requires_grad_() for value in module.parameters()]


def _with_parameters(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    family: str,
    keywords: tuple[str, ...] = (),
) -> Workload:
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    names = list(state)

    def call(*values: Tensor) -> list[Tensor]:
        given = dict(zip(names, values, strict=False))
        arguments = values[len(names) :]
        named = dict(zip(keywords, arguments, strict=False))
        positional = () if keywords else arguments
        result = torch.func.functional_call(module, given, positional, named)
        leaves = torch.utils._pytree.tree_leaves(result)
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    values = [value.detach() for value in state.values()]
    return Workload(call, (*values, *inputs), family)
