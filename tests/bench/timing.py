"""Timing captures, ours and torch's in turn.

Times are CPU times of the process, which other processes on the machine disturb least. torch's
process-wide cache of fake results is cleared before each capture, so that each starts cold. A first
round that is not counted imports what is imported lazily.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from workloads import Workload

import hopyard

TRACERS: Mapping[str, Callable[..., Any]] = {"torch": torch_make_fx, "ours": hopyard.make_fx}
"""What is compared: each takes a function and a tracing mode and returns what captures."""


@dataclass(frozen=True)
class Comparison:
    """What the rounds of one workload took.

    Attributes:
        nodes: Number of nodes of the graph.
        same_graph: Whether both tracers gave the same code.
        seconds: CPU seconds of each round's capture, by tracer.
        with_code: The same with the generation of Python code, which both tracers leave until
            somebody reads or runs it.
        alone: CPU seconds of running the program without a graph: on fake tensors in fake
            captures, as it is in real ones.
    """

    nodes: int
    same_graph: bool
    seconds: Mapping[str, Sequence[float]]
    with_code: Mapping[str, Sequence[float]]
    alone: Sequence[float]

    def micros_a_node(self, tracer: str) -> float:
        """Return microseconds a node, the median of the rounds."""
        return statistics.median(self.seconds[tracer]) / self.nodes * 1e6

    @property
    def ratio(self) -> float:
        """How many times faster ours is, the median of the rounds."""
        return median_ratio(self.seconds["torch"], self.seconds["ours"])

    @property
    def ratio_with_code(self) -> float:
        """The same with the generation of code."""
        return median_ratio(self.with_code["torch"], self.with_code["ours"])

    @property
    def over_alone(self) -> float:
        """How many times longer our capture takes than the program alone."""
        return median_ratio(self.seconds["ours"], self.alone)


def compare(workload: Workload, mode: str, rounds: int) -> Comparison:
    """Capture a workload with both tracers, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in TRACERS}
    with_code: dict[str, list[float]] = {name: [] for name in TRACERS}
    alone: list[float] = []
    graphs: dict[str, GraphModule] = {}
    for index in range(rounds + 1):
        for name in TRACERS:
            graphs[name], capture_time, code_time = timed_capture(name, workload, mode)
            if index:
                seconds[name].append(capture_time)
                with_code[name].append(capture_time + code_time)
        if index:
            alone.append(timed_alone(workload, mode))
    return Comparison(
        nodes=len(graphs["torch"].graph.nodes),
        same_graph=reference(workload, mode, graphs["torch"]).code == graphs["ours"].code,
        seconds=seconds,
        with_code=with_code,
        alone=alone,
    )


def reference(workload: Workload, mode: str, timed: GraphModule) -> GraphModule:
    """Return torch's graph that ours must equal.

    torch's cache of fake results gives other numbers to some tensors with symbolic sizes, which
    shows where a program reads them; ours does without, and so does the graph it is compared with.
    """
    if mode != "symbolic":
        return timed
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        return timed_capture("torch", workload, mode)[0]


def timed_capture(tracer: str, workload: Workload, mode: str) -> tuple[GraphModule, float, float]:
    """Capture once, cold; return the graph and the CPU seconds of capture and of its code."""
    start_cold()
    capture = TRACERS[tracer](workload.function, tracing_mode=mode)
    start = time.process_time()
    traced = capture(*workload.inputs)
    captured = time.process_time()
    _ = traced.code
    return traced, captured - start, time.process_time() - captured


def timed_alone(workload: Workload, mode: str) -> float:
    """Run the program once, cold, without a graph, and return its CPU seconds."""
    start_cold()
    start = time.process_time()
    if mode == "real":
        workload.function(*workload.inputs)
    else:
        fake_mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=mode == "fake")
        inputs = [fake_input(value, fake_mode) for value in workload.inputs]
        dispatcher = enable_python_dispatcher if mode == "symbolic" else nullcontext
        with fake_mode, dispatcher():
            workload.function(*inputs)
    return time.process_time() - start


def fake_input(value: Any, fake_mode: FakeTensorMode) -> Any:
    """Return the fake tensor of a tensor, and anything else as it is."""
    return fake_mode.from_tensor(value) if isinstance(value, Tensor) else value


def start_cold() -> None:
    """Forget what earlier captures left behind."""
    FakeTensorMode.cache_clear()
    gc.collect()


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(
        numerator / denominator
        for numerator, denominator in zip(numerators, denominators, strict=True)
    )
