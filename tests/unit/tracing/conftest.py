"""Capturing one program with torch's tracer and with ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
import torch._dynamo
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx

import hopyard
from hopyard.errors import CaptureError
from hopyard.testing import assert_same_assumptions, assert_same_graph

Inputs = Callable[[], Sequence[Any]]


class Comparison:
    """Captures a function with both tracers and checks that the graphs are the same."""

    def __init__(self, mode: str) -> None:
        self.mode = mode

    def __call__(
        self,
        function: Callable[..., Any],
        *inputs: Any,
        fresh: Inputs | None = None,
        decompositions: dict[Any, Any] | None = None,
        constants: bool = True,
    ) -> GraphModule:
        """Return our graph of `function` on `inputs`, or on what `fresh` makes for each tracer."""

        def capture(make: Callable[..., Any]) -> GraphModule:
            # Dynamo, which operators may hand their bodies to, remembers the sizes it has seen.
            torch._dynamo.reset()
            torch.manual_seed(0)
            values = inputs if fresh is None else fresh()
            return make(function, decompositions, self.mode)(*values)

        try:
            expected = capture(torch_make_fx)
        except Exception as refusal:
            if self.mode != "symbolic":
                raise
            with pytest.raises(CaptureError):
                capture(hopyard.make_fx)
            pytest.skip(f"torch cannot do this on symbolic sizes: {str(refusal)[:80]}")
        actual = capture(hopyard.make_fx)
        assert_same_graph(actual, expected)
        assert_same_assumptions(actual, expected)
        assert [node.name for node in actual.graph.nodes] == [
            node.name for node in expected.graph.nodes
        ]
        assert actual.code == expected.code
        return actual


@pytest.fixture(params=["fake", "real", "symbolic"])
def mode(request: pytest.FixtureRequest) -> Iterator[str]:
    # torch's process-wide cache of fake results adds guards of its own to symbolic captures.
    enabled = request.param != "symbolic" and torch._dynamo.config.fake_tensor_cache_enabled
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=enabled):
        yield request.param


@pytest.fixture
def as_torch(mode: str) -> Comparison:
    return Comparison(mode)
