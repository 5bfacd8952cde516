"""How the time of a capture grows with one size of the program."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from timing import TRACERS, compare
from workloads import (
    Workload,
    concatenations,
    distinct_sizes,
    pointwise_chain,
    reading_parameters,
)


@dataclass(frozen=True)
class Series:
    """Programs that differ in one size.

    Attributes:
        size: What the size is the number of.
        make: Makes the program of a size.
        sizes: From small to large.
        modes: The tracing modes in which the program can be captured.
    """

    size: str
    make: Callable[[int], Workload]
    sizes: tuple[int, ...]
    modes: tuple[str, ...]


SERIES = (
    Series("nodes", pointwise_chain, (200, 1000, 4000), ("fake", "real", "symbolic")),
    # A real tensor that a program closes over has no place in a fake capture.
    Series("closed-over parameters", reading_parameters, (10, 100, 1000), ("real",)),
    Series("distinct symbols", distinct_sizes, (1, 4, 16), ("symbolic",)),
    Series("concatenations", concatenations, (50, 200, 800), ("symbolic",)),
)


def measure(series: Series, mode: str, rounds: int) -> dict[str, Any]:
    """Return the seconds at each size, and the power of the size by which they grow."""
    compared = {size: compare(series.make(size), mode, rounds) for size in series.sizes}
    result: dict[str, Any] = {"size": series.size, "mode": mode, "sizes": list(series.sizes)}
    for tracer in TRACERS:
        seconds = [statistics.median(compared[size].seconds[tracer]) for size in series.sizes]
        result[f"{tracer}_seconds"] = seconds
        result[f"{tracer}_power"] = growth(series.sizes, seconds)
    result["same_graph"] = all(each.same_graph for each in compared.values())
    return result


def growth(sizes: tuple[int, ...], seconds: list[float]) -> float:
    """Return the power of the size by which the times grow in the last step: 1 is linear.

    What a capture costs before its first node hides growth in the steps before.
    """
    return math.log(seconds[-1] / seconds[-2]) / math.log(sizes[-1] / sizes[-2])
