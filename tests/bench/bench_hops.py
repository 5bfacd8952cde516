"""What one call of a higher-order operator costs: beside a call of its body, and beside torch's.

Each row is a surface. The body is called as it is, through an operator of `hopyard.hops`, and
through a subclass of `torch._higher_order_ops.base_hop.BaseHOP`, in turn, in one process. Times are
CPU times of the process, medians of the rounds; `over body` is what our call adds to the body's.
Graphs and results are compared in the same run.

`compiled_regions` adds what a region costs in code that Inductor compiled.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import compiled_regions
import torch
from torch import Tensor
from torch._higher_order_ops.base_hop import BaseHOP
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.utils._pytree import tree_leaves

import hopyard
from hopyard.hops import bind
from hopyard_hookspecs import Hop

Call = Callable[..., Any]

NOISE = 0.03
"""By how much the ratio of a row differs from one run to the next: what is less is a tie."""


class Torchs(BaseHOP):  # type: ignore[misc]
    """torch's base class with nothing added."""

    def __init__(self) -> None:
        super().__init__("hopyard_bench_region")

    def __call__(self, subgraph: Any, *operands: Any, **config: Any) -> Any:
        return super().__call__(subgraph, *operands, **config)


OPERATORS: dict[str, Call] = {
    "body": lambda body, *operands: body(*operands),
    "ours": bind(Hop("hopyard_bench__region")),
    "torch": Torchs(),
}


def small(x: Tensor, y: Tensor) -> tuple[Tensor]:
    """One operator: what is measured is the call."""
    return (x + y,)


def large(x: Tensor, y: Tensor) -> tuple[Tensor]:
    """Some thirty operators: what is measured is how often they are traced and run."""
    for _ in range(10):
        x = (x * y).sin() + y
    return (x,)


def once(operator: Call, body: Call, *operands: Tensor) -> Any:
    """One call."""
    return operator(body, *operands)


def step(operator: Call, body: Call, *operands: Tensor) -> Any:
    """A call and its gradient."""
    return torch.autograd.grad(operator(body, *operands)[0].sum(), operands)


def traced(make: Call, mode: str, what: Call) -> Call:
    """Return a function that captures a call."""

    def run(operator: Call, body: Call, *operands: Tensor) -> Any:
        return make(lambda *inputs: what(operator, body, *inputs), tracing_mode=mode)(*operands)

    return run


@dataclass(frozen=True)
class Surface:
    """A way to call an operator.

    Attributes:
        run: Does it, given an operator, a body and operands.
        body: What is called.
        requires_grad: Whether the operands do.
        context: Entered around it.
        limit: How many microseconds more than the body a call may take; None if that is not
            demanded.
    """

    run: Call
    body: Call = large
    requires_grad: bool = False
    context: Callable[[], Any] = nullcontext
    limit: float | None = None


SURFACES: dict[str, Surface] = {
    "eager": Surface(once, small, limit=5.0),
    "eager, no_grad": Surface(once, small, context=torch.no_grad, limit=5.0),
    "eager, grad": Surface(once, small, requires_grad=True, limit=5.0),
    "eager, forward and backward": Surface(step, small, requires_grad=True),
    "fake": Surface(once, small, context=FakeTensorMode),
    "fake, grad": Surface(once, small, requires_grad=True, context=FakeTensorMode),
    "fake, 30 operators": Surface(once, context=FakeTensorMode),
    **{
        f"traced by {name}, {mode}{suffix}": Surface(
            traced(make, mode, what), requires_grad=what is step, context=context
        )
        for name, make in (("torch", torch_make_fx), ("hopyard", hopyard.make_fx))
        for mode in ("fake", "real", "symbolic")
        for suffix, what, context in (
            ("", once, nullcontext),
            (", no_grad", once, torch.no_grad),
            (", training", step, nullcontext),
        )
    },
}


def main() -> None:
    """Measure the surfaces."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--surfaces", nargs="+", default=list(SURFACES), choices=list(SURFACES))
    parser.add_argument("--uncompiled", action="store_true", help="leave out compiled regions")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    print(
        f"{'one call':36}{'body':>12}{'ours':>12}{'BaseHOP':>12}{'over body':>12}"
        f"{'BaseHOP/ours':>14}"
    )
    results = [measure(name, SURFACES[name], options.rounds) for name in options.surfaces]
    missed = [result["surface"] for result in results if result["missed"]]
    compiled = [] if options.uncompiled else compiled_regions.measure(options.rounds)
    missed += [f"{row['program']}, {row['variant']}" for row in compiled if row["missed"]]
    print(
        "\nmissed: " + ", ".join(missed)
        if missed
        else f"\nno slower than BaseHOP, nor than inlined code if compiled, within {NOISE:.0%}"
    )
    if options.json:
        machine = {"torch": torch.__version__, "python": platform.python_version()}
        options.json.write_text(
            json.dumps({"machine": machine, "hops": results, "compiled": compiled}, indent=2)
        )


def measure(name: str, surface: Surface, rounds: int) -> dict[str, Any]:
    """Time a surface and print its row."""
    seconds: dict[str, list[float]] = {each: [] for each in OPERATORS}
    graph_of_body = torch.fx.symbolic_trace(surface.body)
    results: dict[str, Any] = {}
    with surface.context():
        operands = [torch.ones(4, 4).requires_grad_(surface.requires_grad) for _ in range(2)]
        for index in range(rounds + 1):
            for each, operator in OPERATORS.items():
                taken, results[each] = timed(surface, operator, graph_of_body, operands)
                if index:
                    seconds[each].append(taken)
    for each in ("ours", "torch"):
        compare(results[each], results["body"])
    micros = {each: statistics.median(times) * 1e6 for each, times in seconds.items()}
    ratio = statistics.median(
        theirs / ours for theirs, ours in zip(seconds["torch"], seconds["ours"], strict=True)
    )
    over = micros["ours"] - micros["body"]
    missed = ratio < 1 - NOISE or (surface.limit is not None and over > surface.limit)
    print(
        f"{name:36}{micros['body']:9.1f} us{micros['ours']:9.1f} us{micros['torch']:9.1f} us"
        f"{over:9.1f} us{ratio:13.2f}x{'  missed' if missed else ''}",
        flush=True,
    )
    return {
        "surface": name,
        "body_us": micros["body"],
        "ours_us": micros["ours"],
        "base_hop_us": micros["torch"],
        "over_body_us": over,
        "ratio": ratio,
        "missed": missed,
    }


def timed(
    surface: Surface, operator: Call, body: Call, operands: list[Tensor]
) -> tuple[float, Any]:
    """Return the CPU seconds of one call, and what it returned.

    Calls are repeated for some hundredths of a second.
    """
    FakeTensorMode.cache_clear()
    gc.collect()
    gc.disable()
    try:
        start = time.process_time()
        result = surface.run(operator, body, *operands)
        first = time.process_time() - start
        repeats = int(0.02 / first) + 1
        start = time.process_time()
        for _ in range(repeats):
            result = surface.run(operator, body, *operands)
        return (time.process_time() - start) / repeats, result
    finally:
        gc.enable()


def compare(result: Any, expected: Any) -> None:
    """Check that two calls did the same; a graph is run for that."""
    if isinstance(expected, GraphModule):
        given = torch.randn(4, 4), torch.randn(4, 4)
        result, expected = result(*given), expected(*given)
    if not any(isinstance(value, FakeTensor) for value in tree_leaves(expected)):
        torch.testing.assert_close(result, expected)


if __name__ == "__main__":
    main()
