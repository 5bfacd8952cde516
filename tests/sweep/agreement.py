"""Whether our tracer and torch's make the same graph of a function, and whether it computes right.

::

    capture with both ─ same exceptions? ─ same graph? ─ run both graphs ─ same numbers? ─ Verdict
"""

from __future__ import annotations

import contextlib
import enum
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch.fx import GraphModule
from torch.fx import traceback as fx_traceback
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.utils._pytree import tree_leaves, tree_map_only

import hopyard
from hopyard.testing import assert_same_assumptions, assert_same_graph

SEED = 2026
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
    """

    outcome: Outcome
    detail: str = ""
    not_computed: str = ""
    nodes: int = 0


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
    """
    with equal_terms(mode):
        expected = _attempt(lambda: _capture(torch_make_fx, function, inputs, mode, decompositions))
        actual = _attempt(lambda: _capture(hopyard.make_fx, function, inputs, mode, decompositions))
    if isinstance(actual, Exception):
        raised = isinstance(expected, Exception)
        outcome = Outcome.BOTH_RAISE if raised else Outcome.ONLY_OURS_RAISES
        return Verdict(outcome, _told(actual))
    if isinstance(expected, Exception):
        return Verdict(Outcome.ONLY_TORCHS_RAISES, _told(expected))
    nodes = len(actual.graph.nodes)
    try:
        check_same(actual, expected)
    except AssertionError as difference:
        outcome = Outcome.DIFFER
        if is_fake(mode) and _is_same_uncached(actual, function, inputs, mode, decompositions):
            outcome = Outcome.SAME_UNCACHED
        return Verdict(outcome, str(difference), nodes=nodes)
    reason = why_not_computed(expected) if not_computed is None else not_computed
    if reason:
        return Verdict(Outcome.SAME, not_computed=reason, nodes=nodes)
    values = inputs if others is None else others
    result = _attempt(lambda: run(actual, values))
    problem = differing_results(result, _attempt(lambda: run(expected, values)))
    if not problem and eager:
        plain = _attempt(lambda: run(function, values))
        problem = differing_results(result, plain, tolerance)
        if (
            problem
            and is_fake(mode)
            and _differs_from_real(actual, function, inputs, mode, decompositions)
        ):
            return Verdict(Outcome.SAME, not_computed=FAKES_DIFFER, nodes=nodes)
        problem = problem and f"the graph does not compute what the function does: {problem}"
    return Verdict(Outcome.DIFFER if problem else Outcome.SAME, problem, nodes=nodes)


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


def copied(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return `values` with tensors copied; strides, offsets and shared memory stay."""
    storages: dict[int, torch.UntypedStorage] = {}
    return tuple(
        _copied_tensor(value, storages) if isinstance(value, Tensor) else value for value in values
    )


def run(function: Callable[..., Any], inputs: Sequence[Any]) -> tuple[Any, Any]:
    """Return what a function makes of a copy of `inputs`, and that copy as the function leaves it.

    A graph runs without autograd, and outside inference mode: what autograd did is in the graph.
    """
    given = copied(inputs)
    is_graph = isinstance(function, GraphModule)
    if is_graph:
        given = tree_map_only(Tensor, _plain, given)
    torch.manual_seed(SEED)
    with _settings_restored(), torch.set_grad_enabled(not is_graph):
        return function(*given), given


def differing_results(one: Any, other: Any, tolerance: float = 0.0) -> str:
    """Return how two results of :func:`run`, or exceptions instead, differ; "" if they do not."""
    if isinstance(one, Exception) or isinstance(other, Exception):
        if isinstance(one, Exception) and isinstance(other, Exception):
            return ""
        return f"one run gives {_told(one)}, the other {_told(other)}"
    ours, theirs = tree_leaves(one), tree_leaves(other)
    if len(ours) != len(theirs):
        return f"{len(ours)} and {len(theirs)} results"
    for index, (left, right) in enumerate(zip(ours, theirs, strict=True)):
        problem = _differing_values(left, right, tolerance)
        if problem:
            return f"result {index}: {problem}"
    return ""


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
    with _settings_restored(), fx_traceback.preserve_node_meta():
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
    real = _attempt(lambda: _capture(hopyard.make_fx, function, inputs, mode, decompositions))
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


@contextlib.contextmanager
def _settings_restored() -> Iterator[None]:
    dtype = torch.get_default_dtype()
    deterministic = torch.are_deterministic_algorithms_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(deterministic)


def _attempt(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:  # noqa: BLE001
        return error


def _copied_tensor(tensor: Tensor, storages: dict[int, torch.UntypedStorage]) -> Tensor:
    plain = type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout is torch.strided
    if not plain or tensor.is_quantized or tensor.is_conj() or tensor.is_neg():
        copy = tensor.detach().clone()
    else:
        source = tensor.untyped_storage()
        storage = storages.setdefault(source._cdata, source.clone())
        copy = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        copy.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
    if tensor.is_inference():
        with torch.inference_mode():
            return copy.clone()
    # `.data` starts to count the writes anew: autograd sees a tensor that nobody has written to.
    copy = copy.data
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(copy, tensor.requires_grad)
    return copy.requires_grad_(tensor.requires_grad)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def _seen(tensor: Tensor) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} {tensor.stride()} {tensor.device}"


def _differing_values(one: Any, other: Any, tolerance: float) -> str:
    if isinstance(one, Tensor) is not isinstance(other, Tensor):
        return f"{type(one).__name__} and {type(other).__name__}"
    if not isinstance(one, Tensor):
        same = (type(one), one) == (type(other), other) or (one != one and other != other)
        return "" if same else f"{one!r} and {other!r}"
    try:
        torch.testing.assert_close(
            one.detach(), other.detach(), rtol=tolerance, atol=tolerance, equal_nan=True
        )
    except AssertionError as difference:
        return str(difference)
    return ""


def _told(value: Any) -> str:
    if not isinstance(value, Exception):
        return "a result"
    first = (str(value).strip().splitlines() or [""])[0]
    cause = f" (from {_told(value.__cause__)})" if isinstance(value.__cause__, Exception) else ""
    return f"{type(value).__name__}: {first[:200]}{cause[:200]}"
