"""What captures leave behind: many in a row, with faults in the middle, and on many threads. ::

python tests/sweep/sweep_robustness.py
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import sweep_models
import torch
from agreement import add_modes, chosen_modes, made_by
from running import copied
from torch import Tensor
from torch._ops import mode_stack_state_for_pre_dispatch
from torch.fx import Graph, GraphModule, Node
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import hopyard
from hopyard.errors import CaptureError
from hopyard.testing import describe_graph
from hopyard.tracing import TracingMode
from hopyard.tracing.recording._nodes import NodeWriter

CAPTURES = 200
SETTLED = 50
"""Captures after which caches of torch and Python have filled."""
TOLERATED_BYTES = 8 << 20
EVERY = 10
THREADS = ("gpt2", "bert", "t5", "resnet", "mamba", "wav2vec2", "branches", "maps")

Program = tuple[Callable[..., Any], Sequence[Tensor]]


class Fault(Exception):
    """What is raised in the middle of a capture."""


def branches(x: Tensor, y: Tensor) -> Any:
    """Take one of two ways, again and again."""
    for _ in range(10):
        (x,) = torch.ops.higher_order.cond(
            x.sum() > 0, lambda x, y: (x.sin() @ y.t() @ y,), lambda x, y: (x - y,), (x, y)
        )
    return x


def maps(x: Tensor, y: Tensor) -> Any:
    """Do the same with each row, again and again."""
    for _ in range(10):
        (x,) = torch.ops.higher_order.map_impl(
            lambda row, other: (torch.softmax(row * other, 0),), (x,), (y[0],)
        )
    return x


REGIONS: dict[str, Callable[..., Any]] = {"branches": branches, "maps": maps}


def main() -> int:
    """Run all checks, or one; return how many fail."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=list(CHECKS))
    add_modes(parser)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)

    failures = 0
    checks = [options.only] if options.only else list(CHECKS)
    for name, mode in itertools.product(checks, chosen_modes(options)):
        start = time.perf_counter()
        try:
            told = CHECKS[name](mode)
        except AssertionError as error:
            failures += 1
            told = f"FAILS: {error}"
        print(f"{name:8}{mode:22}{time.perf_counter() - start:6.0f} s   {told}", flush=True)
    return failures


def check_growth(
    mode: str,
    captures: int = CAPTURES,
    settled: int = SETTLED,
    tolerated: int = TOLERATED_BYTES,
) -> str:
    """Check that captures leave nothing behind: no tensors, no nodes, no memory.

    Raises:
        AssertionError: Something grows.
    """
    function, inputs = program("gpt2", "training")
    for _ in range(settled):
        capture(function, inputs, mode)
    before, resident = living(), resident_bytes()
    for _ in range(captures - settled):
        capture(function, inputs, mode)
    after, grown = living(), resident_bytes() - resident
    # What an earlier test left for the garbage collector may go meanwhile.
    leaked = any(after[kind] > before[kind] for kind in before)
    assert not leaked, f"tensors and nodes alive: {before} before, {after} after"
    assert grown < tolerated, f"memory grows by {grown >> 10} KiB"
    return f"{captures} captures; the last {captures - settled} add {grown >> 10} KiB and no object"


def check_faults(mode: str, every: int = EVERY) -> str:
    """Check that a fault at every tenth dispatch, or node, leaves everything as it was.

    Raises:
        AssertionError: The capture succeeds, or something is not as it was.
    """
    function, inputs = program("gpt2", "training")
    given = copied(inputs)
    expected = describe_graph(capture(function, given, mode))
    before = surroundings(given)
    count = 0
    for owner, name in ((TracingMode, "__torch_dispatch__"), (NodeWriter, "call")):
        for position in itertools.count(0, every):
            with faulty(owner, name, position) as calls:
                raised = _raised(function, given, mode)
            if raised is None:
                assert len(calls) <= position, f"a fault at {name} {position} was swallowed"
                break
            assert isinstance(raised, Fault), repr(raised)
            count += 1
            assert surroundings(given) == before, f"after a fault at {name} {position}"
    assert describe_graph(capture(function, given, mode)) == expected, "the next graph differs"
    return f"{count} faults"


def check_threads(mode: str, names: Sequence[str] = THREADS, rounds: int = 3) -> str:
    """Check that captures on several threads at once are those that one thread makes.

    Raises:
        AssertionError: A graph differs, or a capture fails.
    """
    programs = {name: program(name, "training") for name in names}
    expected = {
        name: describe_graph(capture(function, inputs, mode))
        for name, (function, inputs) in programs.items()
    }
    problems: list[str] = []
    barrier = threading.Barrier(len(names))

    def work(name: str) -> None:
        function, inputs = programs[name]
        barrier.wait()
        for _ in range(rounds):
            try:
                if describe_graph(capture(function, inputs, mode)) != expected[name]:
                    problems.append(f"{name}: the graph differs")
            except Exception as error:  # noqa: BLE001
                problems.append(f"{name}: {type(error).__name__}: {error}")

    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems, "; ".join(problems)[:1000]
    return f"{len(names)} threads, {rounds * len(names)} captures"


def program(name: str, form: str) -> Program:
    """Return a model, or a function with regions, and example inputs."""
    if name in REGIONS:
        return REGIONS[name], (torch.randn(4, 3), torch.randn(4, 3))
    architecture = sweep_models.ARCHITECTURES[name]
    make = sweep_models.forward if form == "forward" else sweep_models.training
    return make(architecture.make(), architecture.inputs())


def capture(function: Callable[..., Any], inputs: Sequence[Any], mode: str) -> GraphModule:
    """Return our graph of a function; with integers, of one that is given an integer as well."""
    if mode != "integers":
        return made_by(hopyard.make_fx, function, mode)(*inputs)

    def counted(count: int, *inputs: Any) -> Any:
        return torch.arange(count * 2), function(*inputs)

    return made_by(hopyard.make_fx, counted, mode)(7, *inputs)


def _raised(function: Callable[..., Any], inputs: Sequence[Any], mode: str) -> BaseException | None:
    try:
        capture(function, inputs, mode)
    except CaptureError as error:
        return error.__cause__
    except Fault as fault:
        return fault
    return None


@contextmanager
def faulty(owner: type, name: str, position: int) -> Iterator[list[None]]:
    """Let a method do its work and then raise, at the call of this number.

    Yields:
        An item for each call so far.
    """
    original = getattr(owner, name)
    calls: list[None] = []

    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        if args[0] is torch.ops.prim.device.default:
            # C++ asks for a device where no exception can pass: any would end the process.
            return result
        calls.append(None)
        if len(calls) == position + 1:
            raise Fault
        return result

    with mock.patch.object(owner, name, method):
        yield calls


def surroundings(inputs: Sequence[Tensor]) -> list[Any]:
    """Return the state of this thread that a capture changes, and what inputs carry."""
    return [
        list(_get_current_dispatch_mode_stack()),
        list(_get_current_function_mode_stack()),
        [
            torch._C._get_dispatch_mode(key)
            for key in torch._C._TorchDispatchModeKey.__members__.values()
        ],
        mode_stack_state_for_pre_dispatch().count(),
        torch._C._dispatch_tls_local_include_set().raw_repr(),
        torch._C._dispatch_tls_local_exclude_set().raw_repr(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_cache_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_autocast_dtype("cpu"),
        torch.get_default_dtype(),
        [sorted(value.__dict__) for value in inputs],
        [value.requires_grad for value in inputs],
        [value._version for value in inputs],
        [value.grad for value in inputs if value.is_leaf],
    ]


def living() -> dict[str, int]:
    """Return how many tensors and nodes are alive."""
    gc.collect()
    kinds = {"tensors": Tensor, "nodes": Node, "graphs": Graph}
    found = dict.fromkeys(kinds, 0)
    for value in gc.get_objects():
        for name, kind in kinds.items():
            # A type, where `isinstance` would wake lazy modules up.
            if issubclass(type(value), kind):
                found[name] += 1
    return found


def resident_bytes() -> int:
    """Return how much memory the process holds; 0 where that cannot be read."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        return 0
    gc.collect()
    release = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if release is not None:
        # What is free but not given back grows until pages of all sizes have been used.
        release(0)
    return int(statistics.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


CHECKS: dict[str, Callable[[str], str]] = {
    "growth": check_growth,
    "faults": check_faults,
    "threads": check_threads,
}


if __name__ == "__main__":
    sys.exit(min(main(), 1))
