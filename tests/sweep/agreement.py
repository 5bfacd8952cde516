"""Whether our tracer and torch's make the same graph of a function, and whether it computes right.

::

    capture with both ─ same exceptions? ─ same graph? ─ run both graphs ─ same numbers? ─ Verdict
"""

from __future__ import annotations

import argparse
import contextlib
import enum
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch._dynamo
from resized import check_resized
from running import SEED, attempt, copied, differing_results, run, settings_restored, told
from torch import Tensor
from torch.fx import GraphModule
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.utils._pytree import tree_map_only

import hopyard
from hopyard.testing import assert_same_assumptions, assert_same_graph

GENERATED = re.compile(r"<eval_with_key>[^\"]*")
PROVENANCE = ("stack_trace", "original_aten", "nn_module_stack", "torch_fn", "custom")
"""What nodes tell of where they come from, as far as two captures in a row tell the same."""
PRE_DISPATCH = "pre-dispatch "
MODES = (
    "real",
    "fake",
    "symbolic",
    "integers",
    PRE_DISPATCH + "real",
    PRE_DISPATCH + "fake",
    PRE_DISPATCH + "symbolic",
)
"""How programs are captured. With "integers", whole numbers are inputs of a symbolic capture."""
USUAL_MODES = ("real", "fake", "integers", PRE_DISPATCH + "fake")
"""Those that scripts go through unless they are told otherwise: each engine once, in minutes."""
HIDDEN = "what only autograd or a transform computes is a constant of a graph above both"
FAKES_DIFFER = "torch's fake tensors have other strides than its real ones"


class Outcome(enum.Enum):
    """How two captures of one function relate.

    "Same, uncached" is the same graph as torch's without its cache of fake results. With it, views
    of empty tensors have a storage of their own when they are made for the second time.
    """

    SAME = "same"
    SAME_UNCACHED = "same, uncached"
    BOTH_RAISE = "both raise"
    ONLY_OURS_RAISES = "only ours raises"
    ONLY_TORCHS_RAISES = "only torch's raises"
    DIFFER = "differ"

    @property
    def agrees(self) -> bool:
        """Whether there is nothing to look at."""
        return self in (Outcome.SAME, Outcome.SAME_UNCACHED, Outcome.BOTH_RAISE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of one comparison.

    Attributes:
        outcome: In a word.
        detail: What differs, or what was raised.
        not_computed: Why the numbers were not compared; empty if they were.
        nodes: Length of the graph.
        resized: What came of inputs of other sizes, how often.
    """

    outcome: Outcome
    detail: str = ""
    not_computed: str = ""
    nodes: int = 0
    resized: Mapping[str, int] = field(default_factory=dict)


def compare(
    function: Callable[..., Any],
    inputs: Sequence[Any],
    mode: str,
    *,
    decompositions: dict[Any, Any] | None = None,
    eager: bool = False,
    others: Sequence[Any] | None = None,
    tolerance: float = 0.0,
    not_computed: str | None = None,
    resized: Sequence[Sequence[Any]] = (),
) -> Verdict:
    """Capture `function` with both tracers and compare graphs, generated code and results.

    Args:
        function: What to capture.
        inputs: Its arguments; every capture and run gets copies.
        mode: One of `MODES`.
        decompositions: A decomposition table for both.
        eager: Whether our graph must also compute what the function itself does.
        others: Arguments to run the graphs on; `inputs` by default.
        tolerance: How far the graph's numbers may be from the function's, absolute and relative.
            The graphs' numbers must be equal to the last bit.
        not_computed: Why numbers must not be compared, or "" if they can be; found out from the
            graph by default.
        resized: Arguments of other sizes. A symbolic graph must be right for those that it accepts.
    """
    with equal_terms(mode):
        expected = attempt(lambda: _capture(torch_make_fx, function, inputs, mode, decompositions))
        actual = attempt(lambda: _capture(hopyard.make_fx, function, inputs, mode, decompositions))
    if isinstance(actual, Exception):
        raised = isinstance(expected, Exception)
        outcome = Outcome.BOTH_RAISE if raised else Outcome.ONLY_OURS_RAISES
        return Verdict(outcome, told(actual))
    if isinstance(expected, Exception):
        return Verdict(Outcome.ONLY_TORCHS_RAISES, told(expected))
    nodes = len(actual.graph.nodes)
    try:
        check_same(actual, expected)
    except AssertionError as difference:
        outcome = Outcome.DIFFER
        if is_fake(mode) and _is_same_uncached(actual, function, inputs, mode, decompositions):
            outcome = Outcome.SAME_UNCACHED
        return Verdict(outcome, str(difference), nodes=nodes)
    reason = why_not_computed(expected) if not_computed is None else not_computed
    found: Mapping[str, int] = {}
    if resized and getattr(actual, "shape_env", None) is not None:
        try:
            found = check_resized(
                actual, expected, function, resized, tolerance=tolerance, compute=not reason
            )
        except AssertionError as difference:
            return Verdict(Outcome.DIFFER, str(difference), nodes=nodes)
    if reason:
        return Verdict(Outcome.SAME, not_computed=reason, nodes=nodes, resized=found)
    values = inputs if others is None else others
    result = attempt(lambda: run(actual, values))
    problem = differing_results(result, attempt(lambda: run(expected, values)))
    if not problem and eager:
        plain = attempt(lambda: run(function, values))
        problem = differing_results(result, plain, tolerance)
        if (
            problem
            and is_fake(mode)
            and _differs_from_real(actual, function, inputs, mode, decompositions)
        ):
            return Verdict(Outcome.SAME, not_computed=FAKES_DIFFER, nodes=nodes)
        problem = problem and f"the graph does not compute what the function does: {problem}"
    outcome = Outcome.DIFFER if problem else Outcome.SAME
    return Verdict(outcome, problem, nodes=nodes, resized=found)


def check_same(actual: GraphModule, expected: GraphModule) -> None:
    """Check that two graphs have the same nodes under the same names, metadata and code.

    Symbolic ones must assume the same of their inputs as well.

    Raises:
        AssertionError: They have not.
    """
    assert_same_graph(actual, expected, constants=not why_not_computed(expected))
    for one, other in zip(actual.graph.nodes, expected.graph.nodes, strict=True):
        assert one.name == other.name, f"a node is called {one.name}, and {other.name} by torch"
        ours, theirs = entries(one), entries(other)
        assert ours == theirs, f"{one.name}.meta has {ours}, and {theirs} by torch"
    assert actual.code == expected.code, f"code:\n{actual.code}\nby torch:\n{expected.code}"
    assert_same_assumptions(actual, expected)


def equal_terms(mode: str) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which torch's guards are those of the program.

    torch keeps fake results for all captures of a process. Looking one up adds guards, spelled
    differently, to a symbolic capture; ours does without.
    """
    if mode.removeprefix(PRE_DISPATCH) not in ("symbolic", "integers"):
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = torch._dynamo.config.patch(
        fake_tensor_cache_enabled=False
    )
    return context


def entries(node: torch.fx.Node) -> list[str]:
    """Return the names in a node's metadata, and what `assert_same_graph` does not look at."""
    told = [
        # Graphs made in between are counted in the names of their code.
        GENERATED.sub("generated", f"{name}: {tree_map_only(Tensor, _seen, node.meta[name])}")
        for name in ("eager_input_vals", "unbacked_bindings", *PROVENANCE)
        if name in node.meta
    ]
    return [*sorted(node.meta), *told]


def why_not_computed(graph_module: GraphModule) -> str:
    """Return why running a graph twice need not give equal numbers, or ""."""
    for node in graph_module.graph.nodes:
        name = str(node.target)
        if node.op == "call_function" and any(word in name for word in ("empty", "resize")):
            return "reads memory that nothing has written"
    return ""


def _capture(
    make: Callable[..., Any],
    function: Callable[..., Any],
    inputs: Sequence[Any],
    mode: str,
    decompositions: dict[Any, Any] | None,
) -> GraphModule:
    given = copied(inputs)
    torch.manual_seed(SEED)
    # Operators that hand their bodies to Dynamo see other sizes when it has seen these before.
    torch._dynamo.reset()
    # While metadata is copied, nodes also tell the operator and the autograd node they come from.
    with settings_restored(), fx_traceback.preserve_node_meta():
        graph_module: GraphModule = made_by(make, function, mode, decompositions)(*given)
    return graph_module


def made_by(
    make: Callable[..., Any],
    function: Callable[..., Any],
    mode: str,
    decompositions: dict[Any, Any] | None = None,
) -> Callable[..., GraphModule]:
    """Return what a tracer's `make_fx` makes of a function in one of `MODES`."""
    made: Callable[..., GraphModule] = make(
        function,
        decompositions,
        "symbolic" if mode == "integers" else mode.removeprefix(PRE_DISPATCH),
        pre_dispatch=mode.startswith(PRE_DISPATCH),
        record_stack_traces=True,
    )
    return made


def is_fake(mode: str) -> bool:
    """Say whether a mode computes with fake tensors of static sizes."""
    return mode.removeprefix(PRE_DISPATCH) == "fake"


def _differs_from_real(
    actual: GraphModule,
    function: Callable[..., Any],
    inputs: Sequence[Any],
    mode: str,
    decompositions: dict[Any, Any] | None,
) -> bool:
    mode = mode.replace("fake", "real")
    real = attempt(lambda: _capture(hopyard.make_fx, function, inputs, mode, decompositions))
    if isinstance(real, Exception):
        return False
    try:
        assert_same_graph(actual, real)
    except AssertionError:
        return True
    return False


def _is_same_uncached(
    actual: GraphModule,
    function: Callable[..., Any],
    inputs: Sequence[Any],
    mode: str,
    decompositions: dict[Any, Any] | None,
) -> bool:
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
        expected = _capture(torch_make_fx, function, inputs, mode, decompositions)
    try:
        check_same(actual, expected)
    except AssertionError:
        return False
    return True


def _seen(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()} {tensor.device}"


def add_modes(parser: argparse.ArgumentParser) -> None:
    """Let a command line choose modes."""
    usual = ", ".join(USUAL_MODES)
    parser.add_argument(
        "--mode", choices=MODES, action="append", help=f"may be given again; default: {usual}"
    )
    parser.add_argument("--all-modes", action="store_true", help="all modes, which takes hours")


def chosen_modes(options: argparse.Namespace) -> tuple[str, ...]:
    """Return the modes that a command line asks for."""
    return MODES if options.all_modes else tuple(options.mode or USUAL_MODES)
