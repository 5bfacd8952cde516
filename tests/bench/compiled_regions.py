"""What a region costs in compiled code: beside its body inlined, and beside torch's nested regions.

The program is a stack of layers that all call one body. It is compiled by Inductor as it is, with
each body a region of `hopyard.hops`, a strict region, and a `torch.compiler.nested_compile_region`.
`compile` is the first call with caches off; `steady` is the median of the rounds of many calls, in
which the variants take turns in one process. Times are CPU times. Results and gradients are
compared in the same run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hopyard.hops import bind
from hopyard_hookspecs import Hop
from hopyard_strict_mode import strict_mode

LAYERS = 4
WIDTH = 256
"""Guards cost some microseconds a call, whatever is called; a call takes milliseconds."""

CALLED = 30
NOISE = 0.03

WEIGHTS = [torch.randn(WIDTH, WIDTH, requires_grad=True) for _ in range(LAYERS)]
REGION = bind(Hop("hopyard_bench__compiled"))


def body(x: Tensor, weight: Tensor) -> Tensor:
    """One layer."""
    hidden = torch.nn.functional.gelu(x @ weight)
    return torch.nn.functional.layer_norm(hidden + x, (WIDTH,)) * hidden.sigmoid()


@torch.compiler.nested_compile_region
def nested(x: Tensor, weight: Tensor) -> Tensor:
    """One layer that torch compiles once."""
    return body(x, weight)


CALLS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "inlined": body,
    "region": lambda x, weight: REGION(body, x, weight),
    "strict_mode": lambda x, weight: strict_mode(body, (x, weight)),
    "nested_compile_region": nested,
}


def compiled(call: Callable[..., Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the stack of layers, compiled when it is first called."""

    def stack(x: Tensor) -> Tensor:
        for weight in WEIGHTS:
            x = call(x, weight)
        return x

    return torch.compile(stack, fullgraph=True)


def infer(function: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    """Run the program."""
    with torch.no_grad():
        return function(x)


def train(function: Callable[[Tensor], Tensor], x: Tensor) -> Any:
    """Run the program and find its gradients."""
    result = function(x)
    return result.detach(), torch.autograd.grad(result.sum(), WEIGHTS)


def measure(rounds: int) -> list[dict[str, Any]]:
    """Time the variants and print a row for each."""
    from torch._inductor import config

    rows = []
    print(f"\n{'compiled by Inductor':36}{'compile':>12}{'steady':>12}{'over inlined':>14}")
    x = torch.randn(WIDTH, WIDTH)
    with config.patch(force_disable_caches=True):
        for kind in (infer, train):
            rows += _measure(kind, x, rounds)
    return rows


def _measure(
    kind: Callable[[Callable[[Tensor], Tensor], Tensor], Any], x: Tensor, rounds: int
) -> list[dict[str, Any]]:
    functions, first, results = {}, {}, {}
    torch.compiler.reset()
    kind(compiled(lambda x, weight: x @ weight), x)
    for name, call in CALLS.items():
        functions[name] = compiled(call)
        start = time.process_time()
        results[name] = kind(functions[name], x)
        first[name] = time.process_time() - start
        torch.testing.assert_close(results[name], results["inlined"])
    seconds: dict[str, list[float]] = {name: [] for name in CALLS}
    for index in range(rounds + 1):
        # Who comes first has the machine as the last one left it.
        turn = list(functions.items())
        for name, function in turn[index % 4 :] + turn[: index % 4]:
            start = time.process_time()
            for _ in range(CALLED):
                kind(function, x)
            if index:
                seconds[name].append((time.process_time() - start) / CALLED)
    torch.compiler.reset()
    rows = []
    for name in CALLS:
        pairs = zip(seconds[name], seconds["inlined"], strict=True)
        ratio = statistics.median(one / other for one, other in pairs)
        steady = statistics.median(seconds[name])
        missed = name != "nested_compile_region" and ratio > 1 + NOISE
        print(
            f"{kind.__name__ + ', ' + name:36}{first[name]:10.2f} s{steady * 1e6:9.1f} us"
            f"{ratio:13.3f}x{'  missed' if missed else ''}",
            flush=True,
        )
        rows.append(
            {
                "program": kind.__name__,
                "variant": name,
                "compile_s": first[name],
                "steady_us": steady * 1e6,
                "over_inlined": ratio,
                "missed": missed,
            }
        )
    return rows
