"""Whether a symbolic graph is right for inputs of other sizes, and refuses those it is not for. ::

inputs of other sizes ─ check_guards ┬─ accepted ─ the graph computes what the function does
                                     └─ refused ── and torch's guards refuse them as well
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from running import attempt, differing_results, run, told
from torch import Tensor
from torch._dynamo.source import LocalSource
from torch.fx import GraphModule

from hopyard.errors import InputError
from hopyard.tracing import check_guards

ACCEPTED = "accepted"
REFUSED = "refused"
UNMET = "accepted, and refused by the function"


def check_resized(
    captured: GraphModule,
    expected: GraphModule,
    function: Callable[..., Any],
    candidates: Sequence[Sequence[Any]],
    *,
    tolerance: float,
    compute: bool,
) -> Counter[str]:
    """Check a graph on inputs of other sizes, and say what came of each.

    Args:
        captured: Our graph of the function.
        expected: torch's graph, whose guards torch itself evaluates.
        function: The function.
        candidates: Inputs that the graph may be right for or not.
        tolerance: How far numbers may differ from the function's, absolute and relative.
        compute: Whether the graph computes what the function does.

    Raises:
        AssertionError: The graph accepts what it is not right for, or what torch refuses.
    """
    found: Counter[str] = Counter()
    for inputs in candidates:
        refusal = _refusal(captured, inputs)
        problem = _disagreement(expected, inputs, refusal)
        assert not problem, f"inputs {_shapes(inputs)}: {problem}"
        if refusal:
            found[REFUSED] += 1
            continue
        result = attempt(lambda inputs=inputs: run(captured, inputs))
        plain = attempt(lambda inputs=inputs: run(function, inputs))
        if isinstance(plain, Exception) and not _is_elsewhere(plain):
            # What is promised of values is checked by the function, and by the graphs of regions.
            found[UNMET] += 1
            continue
        problem = differing_results(result, plain, tolerance) if compute else ""
        assert not problem or not isinstance(plain, Exception), (
            f"inputs {_shapes(inputs)} are accepted, and take another way: {told(plain)}"
        )
        assert not problem, f"inputs {_shapes(inputs)} are accepted, and {problem}"
        found[ACCEPTED] += 1
    return found


def _refusal(captured: GraphModule, inputs: Sequence[Any]) -> str:
    try:
        check_guards(captured, *inputs)
    except InputError as error:
        return str(error)
    return ""


def _disagreement(expected: GraphModule, inputs: Sequence[Any], refusal: str) -> str:
    """Return how torch's own guards judge inputs otherwise, or "" if they do not."""
    accepted = _is_accepted_by_torch(expected, inputs)
    if accepted is None or accepted is not bool(refusal):
        return ""
    return f"refused, and accepted by torch: {refusal}" if accepted else "accepted, not by torch"


def _is_accepted_by_torch(expected: GraphModule, inputs: Sequence[Any]) -> bool | None:
    """Say whether the guards that torch writes as code hold; None if it cannot write them."""
    placeholders = [node.meta["val"] for node in expected.graph.find_nodes(op="placeholder")]
    if any(
        isinstance(one, Tensor) is not isinstance(other, Tensor)
        or (isinstance(one, Tensor) and one.dim() != other.dim())
        for one, other in zip(placeholders, inputs, strict=True)
    ):
        return False
    shape_env: Any = expected.shape_env
    names = [f"t{index}" for index in range(len(inputs))]
    try:
        guards = shape_env.produce_guards(
            placeholders, [LocalSource(name) for name in names], ignore_static=False
        )
        # One by one: joined, as torch does it, an "or" in one of them takes in its neighbours.
        return all(shape_env.evaluate_guards_expression(guard, inputs) for guard in guards)
    except Exception:  # noqa: BLE001
        return None


def _is_elsewhere(error: Exception) -> bool:
    return type(error).__name__ == "Elsewhere"


def _shapes(inputs: Sequence[Any]) -> list[Any]:
    return [tuple(value.shape) if isinstance(value, torch.Tensor) else value for value in inputs]
