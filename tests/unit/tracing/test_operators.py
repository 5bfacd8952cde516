"""A sample of torch's operators: each is captured as torch captures it, and computes the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

import hopyard
from hopyard.errors import CaptureError
from hopyard.testing import assert_same_graph

# torch's own samples of inputs need it.
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

from torch.testing._internal.common_methods_invocations import op_db

SEED = 20260
COUNT = 40


def sampled() -> list[Any]:
    suitable = [info for info in op_db if info.supports_dtype(torch.float32, "cpu")]
    return random.Random(SEED).sample(suitable, COUNT)


def named(info: Any) -> str:
    return f"{info.name}-{info.variant_test_name}".strip("-")


def flattened(info: Any) -> tuple[Callable[..., Any], list[Tensor]]:
    """An operator as a function of the tensors in its first sample of inputs."""
    torch.manual_seed(0)
    sample = next(iter(info.sample_inputs("cpu", torch.float32)))
    leaves, spec = tree_flatten(((sample.input, *sample.args), sample.kwargs))
    where = [index for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]

    def function(*tensors: Tensor) -> Any:
        filled = list(leaves)
        for index, tensor in zip(where, tensors, strict=True):
            filled[index] = tensor
        args, kwargs = tree_unflatten(filled, spec)
        return info.op(*args, **kwargs)

    return function, [leaves[index] for index in where]


def capture(make: Callable[..., Any], function: Any, tensors: list[Tensor], mode: Any) -> Any:
    torch.manual_seed(1)
    return make(function, tracing_mode=mode)(*[tensor.clone() for tensor in tensors])


def computed(graph_module: GraphModule, tensors: list[Tensor]) -> Any:
    torch.manual_seed(2)
    return graph_module(*[tensor.clone() for tensor in tensors])


def targets(graph_module: GraphModule) -> str:
    return " ".join(str(node.target) for node in graph_module.graph.nodes)


def compare(info: Any, mode: Any) -> None:
    function, tensors = flattened(info)
    try:
        expected = capture(torch_make_fx, function, tensors, mode)
    except Exception:  # noqa: BLE001
        expected = None
    if expected is None:
        with pytest.raises(CaptureError):
            capture(hopyard.make_fx, function, tensors, mode)
        return
    actual = capture(hopyard.make_fx, function, tensors, mode)
    assert_same_graph(actual, expected)
    if "empty" not in targets(expected):
        results = computed(actual, tensors), computed(expected, tensors)
        torch.testing.assert_close(*results, rtol=0, atol=0, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("info", sampled(), ids=named)
def test_an_operator_is_captured_as_torch_captures_it(info: Any, mode: Any) -> None:
    compare(info, mode)
