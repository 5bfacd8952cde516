"""What a pass costs on our base, beside torch's and, where it is installed, ExecuTorch's.

The rows are passes: one that overrides `placeholder`, `call_operator` and `output` and calls super
in each; ones that replace an operator in a hundred, or in four, by one of the same result; and the
first on a graph without stamps, as other tools make them. Each is run on every base in turn, in one
process, on graphs captured by Hopyard. Times are CPU times of the process, medians of the rounds;
ratios are medians of the rounds' ratios.

A pass that takes less than 100 ms is run several times in each round, whose time is the median of
these. The garbage collector is off while the clock runs, as `timeit`'s is; between runs it collects
what the last one left, and only that: to look at the whole heap would empty the caches of the
processor before each run.

Torch's bases generate Python code for the new graph and compile it, ours generates it when somebody
reads it and compiles it when somebody runs it: `with code` adds the first, `to run` both. `code us`
and `run us` are what torch's generator and Python's compiler take of it.

In the same run the callbacks are counted, the graphs of the bases are compared, and the tensors of
the new graph must be those of the old one. ::

    python tests/bench/bench_passes.py
    python tests/bench/bench_passes.py --graphs chain-1000 --rounds 7
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import logging
import platform
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from growth import growth
from torch import nn
from torch._export.pass_base import _ExportPassBaseDeprecatedDoNotUse as TorchPass
from torch.export import Dim
from torch.fx import GraphModule
from torch.fx._lazy_graph_module import _LazyGraphModule
from workloads import WORKLOADS, pointwise_chain

import hopyard
from hopyard_export_pass import ExportPass

aten = torch.ops.aten

OURS = "ours"
BASES: dict[str, type] = {"torch": TorchPass, OURS: ExportPass}
try:
    from executorch.exir.pass_base import ExportPass as ExecuTorchPass
except ImportError:
    pass
else:
    BASES["executorch"] = ExecuTorchPass


def counted(base: type) -> Any:
    """Return a pass that overrides three callbacks, calls super in each, and counts calls."""

    class Counted(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            # Not a `Counter`: what is measured takes a few microseconds a node.
            self.placeholders = self.operators = self.outputs = 0

        @property
        def calls(self) -> Mapping[str, int]:
            return {
                "placeholder": self.placeholders,
                "call_operator": self.operators,
                "output": self.outputs,
            }

        def placeholder(self, name: str, arg: Any, meta: Any) -> Any:
            self.placeholders += 1
            return super().placeholder(name, arg, meta)

        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            self.operators += 1
            return super().call_operator(op, args, kwargs, meta)

        def output(self, results: Any, meta: Any) -> Any:
            self.outputs += 1
            return super().output(results, meta)

    return Counted()


def replacing(every: int) -> Callable[[type], Any]:
    """Return what makes a pass that replaces each `every`-th operator by one of equal results."""

    def on(base: type) -> Any:
        class Replacing(base):  # type: ignore[misc, valid-type]
            def __init__(self) -> None:
                super().__init__()
                self.calls: Counter[str] = Counter()

            def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
                self.calls["call_operator"] += 1
                if self.calls["call_operator"] % every == 0 and op in EQUALS:
                    self.calls["replaced"] += 1
                    op = EQUALS[op]
                return super().call_operator(op, args, kwargs, meta)

        return Replacing()

    return on


EQUALS = {
    aten.relu.default: aten.tanh.default,
    aten.sigmoid.default: aten.tanh.default,
    aten.mul.Tensor: aten.sub.Tensor,
    aten.add.Tensor: aten.sub.Tensor,
}
"""Operators whose results are of the same kind."""


@dataclass(frozen=True)
class Pass:
    """A row.

    Attributes:
        make: Puts the pass on a base.
        goal: How many times faster than torch's base ours must be.
        goal_with_code: The same with the code of the new graph generated.
        stamped: Whether the graph has stamps.
    """

    make: Callable[[type], Any]
    goal: float
    goal_with_code: float = 0.0
    stamped: bool = True


PASSES = {
    "identity": Pass(counted, 40.0, 8.0),
    "one in 100": Pass(replacing(100), 20.0),
    "one in 4": Pass(replacing(4), 6.0),
    "unstamped": Pass(counted, 1.5, stamped=False),
}


def chain(length: int) -> Callable[[bool], GraphModule]:
    """Return what captures a chain of operators, with a dynamic size if asked."""

    def capture(dynamic: bool) -> GraphModule:
        workload = pointwise_chain(length)
        shapes = ({0: Dim.DYNAMIC}, {0: Dim.DYNAMIC}) if dynamic else None
        return captured(workload.function, *workload.inputs, dynamic_shapes=shapes)

    return capture


def model(name: str) -> Callable[[bool], GraphModule]:
    """Return what captures a model whose parameters are inputs of a function."""

    def capture(dynamic: bool) -> GraphModule:
        workload = WORKLOADS[name]()
        with torch.no_grad():
            mode = "symbolic" if dynamic else "fake"
            made: GraphModule = hopyard.make_fx(workload.function, tracing_mode=mode)(
                *workload.inputs
            )
            return made

    return capture


def captured(target: Callable[..., Any] | nn.Module, *args: Any, **options: Any) -> GraphModule:
    """Return the graph of a program."""
    with torch.no_grad():
        return hopyard.Session().capture(target, args, **options).graph_module


GRAPHS = {
    "chain-200": chain(200),
    "chain-1000": chain(1000),
    "chain-4000": chain(4000),
    "gpt2-4": model("gpt2-4"),
    "llama-4": model("llama-4"),
    "resnet-50": model("resnet-50"),
}
SAMPLE = 0.1
"""For how many seconds a pass is run in each round."""
SERIES = ("chain-200", "chain-1000", "chain-4000")


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where to keep the results")
    parser.add_argument("--full", action="store_true", help="five rounds instead of three")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--graphs", nargs="+", default=list(GRAPHS), choices=list(GRAPHS))
    parser.add_argument("--passes", nargs="+", default=list(PASSES), choices=list(PASSES))
    parser.add_argument("--sizes", nargs="+", default=["static", "dynamic"])
    options = parser.parse_args()
    rounds = options.rounds or (5 if options.full else 3)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    print(f"{'pass':12}{'graph':12}{'sizes':9}{'nodes':>6}", end="")
    print("".join(f"{base + ' us':>14}" for base in BASES), end="")
    print(f"{'code us':>9}{'run us':>9}{'ratio':>9}{'with code':>11}{'to run':>9}{'goal':>8}")
    results = []
    for graph in options.graphs:
        for sizes in options.sizes:
            graph_module = GRAPHS[graph](sizes == "dynamic")
            for name in options.passes:
                result = measure(PASSES[name], graph_module, rounds)
                results.append({"pass": name, "graph": graph, "sizes": sizes, **result})
                show(results[-1])
    print_growth(results)
    missed = [
        f"{each['pass']} {each['graph']} {each['sizes']}" for each in results if each["missed"]
    ]
    print("missed: " + ", ".join(missed) if missed else "every goal is met")
    if options.json:
        machine = {"torch": torch.__version__, "python": platform.python_version()}
        options.json.write_text(json.dumps({"machine": machine, "passes": results}, indent=2))


def measure(row: Pass, graph_module: GraphModule, rounds: int) -> dict[str, Any]:
    """Run a pass on every base in turn, and compare what they make."""
    # A deep copy of the graph has the same metadata and no stamps.
    given = graph_module if row.stamped else copy.deepcopy(graph_module)
    seconds: dict[str, list[float]] = {name: [] for name in BASES}
    finished: dict[Callable[[GraphModule], object], list[float]] = {read_code: [], prepare: []}
    count = len(given.graph.nodes)
    for index in range(rounds + 1):
        graphs = {}
        for name, base in BASES.items():
            taken, graphs[name] = sampled(row, base, given)
            if index:
                seconds[name].append(taken)
        if index:
            for finish, times in finished.items():
                times.append(sampled(row, BASES[OURS], given, finish)[0])
        check_graphs(graphs, given)
    ratio = median_ratio(seconds["torch"], seconds[OURS])
    code_ratio = median_ratio(seconds["torch"], finished[read_code])
    ours, read, prepared = (statistics.median(each) for each in (seconds[OURS], *finished.values()))
    return {
        "nodes": count,
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "code": read - ours,
        "compiling": prepared - read,
        "ratio": ratio,
        "ratio_with_code": code_ratio,
        "ratio_to_run": median_ratio(seconds["torch"], finished[prepare]),
        "goal": row.goal,
        "missed": ratio < row.goal or code_ratio < row.goal_with_code,
    }


def read_code(graph_module: GraphModule) -> str:
    """Let a graph module have code."""
    return graph_module.code


def prepare(graph_module: GraphModule) -> None:
    """Let a graph module be ready to run."""
    _LazyGraphModule.force_recompile(graph_module)


def nothing(graph_module: GraphModule) -> None:
    """Let a graph module be as it is."""


def sampled(
    row: Pass,
    base: type,
    given: GraphModule,
    finish: Callable[[GraphModule], object] = nothing,
) -> tuple[float, GraphModule]:
    """Run a pass for a while, and return the median CPU seconds of a run and the last graph."""
    runs: list[float] = []
    made = given
    gc.collect()
    gc.freeze()
    while sum(runs) < SAMPLE:
        work = row.make(base)
        del made
        gc.collect()
        gc.disable()
        start = time.process_time()
        made = work(given).graph_module
        finish(made)
        runs.append(time.process_time() - start)
        gc.enable()
        check_calls(work.calls, given)
    gc.unfreeze()
    return statistics.median(runs), made


def check_calls(calls: Mapping[str, int], graph_module: GraphModule) -> None:
    """Check that every node was given to its callback."""
    expected = Counter(
        "call_operator" if isinstance(node.target, torch._ops.OpOverload) else node.op
        for node in graph_module.graph.nodes
    )
    for name in ("placeholder", "call_operator", "output"):
        assert calls.get(name, 0) in (expected[name], 0), (name, calls, expected)
    assert calls["call_operator"] == expected["call_operator"]


def check_graphs(graphs: Mapping[str, GraphModule], given: GraphModule) -> None:
    """Check that all bases made the same operators, and that no tensor was copied."""
    ours = graphs[OURS]
    operators = [node.target for node in ours.graph.nodes if node.op == "call_function"]
    for made in graphs.values():
        others = [node.target for node in made.graph.nodes if node.op == "call_function"]
        assert others == operators
    held = {id(tensor) for tensor in (*given.parameters(), *given.buffers())}
    assert {id(tensor) for tensor in (*ours.parameters(), *ours.buffers())} <= held


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(
        one / other for one, other in zip(numerators, denominators, strict=True)
    )


def show(result: Mapping[str, Any]) -> None:
    """Print a row."""
    micros = [result["seconds"][base] / result["nodes"] * 1e6 for base in BASES]
    print(
        f"{result['pass']:12}{result['graph']:12}{result['sizes']:9}{result['nodes']:6}"
        + "".join(f"{each:14.2f}" for each in micros)
        + "".join(f"{result[each] / result['nodes'] * 1e6:9.2f}" for each in ("code", "compiling"))
        + f"{result['ratio']:8.1f}x{result['ratio_with_code']:10.1f}x"
        + f"{result['ratio_to_run']:8.1f}x{result['goal']:7.1f}x"
        + ("  missed" if result["missed"] else ""),
        flush=True,
    )


def print_growth(results: list[dict[str, Any]]) -> None:
    """Print the power of the size by which our identity pass grows, from 1,000 to 4,000 nodes."""
    for sizes in ("static", "dynamic"):
        rows = {
            each["graph"]: each
            for each in results
            if each["pass"] == "identity" and each["sizes"] == sizes and each["graph"] in SERIES
        }
        if len(rows) == len(SERIES):
            counts = tuple(rows[name]["nodes"] for name in SERIES)
            power = growth(counts, [rows[name]["seconds"][OURS] for name in SERIES])
            print(f"ours grows with the power {power:.2f} of the nodes, {sizes}")


if __name__ == "__main__":
    main()
