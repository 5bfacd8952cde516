"""What a symbolic graph assumes of its inputs, as text that can be compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from torch.fx import GraphModule

_SYMBOL = re.compile(r"\b[a-z]+\d+\b")


def describe_assumptions(graph_module: GraphModule) -> Mapping[str, Sequence[str]]:
    """Return what a symbolic graph assumes: guards, equal symbols, ranges, and what it checks.

    Symbols are numbered in the order in which they were made, so that two graphs whose symbols are
    called differently read alike. A graph without symbols assumes nothing.
    """
    shape_env = getattr(graph_module, "shape_env", None)
    if shape_env is None:
        return {}
    numbers = {str(symbol): f"<{index}>" for index, symbol in enumerate(shape_env.var_to_range)}

    def told(value: object) -> str:
        return _SYMBOL.sub(lambda found: numbers.get(found[0], found[0]), str(value))

    return {
        "guards": [told(guard.expr) for guard in shape_env.guards],
        "equal symbols": [told(item) for item in shape_env.replacements.items()],
        "ranges": [told(item) for item in shape_env.var_to_range.items()],
        "example values": [told(item) for item in shape_env.backed_var_to_val.items()],
        "checked when run": [
            told((symbol, [check.expr for check in checks]))
            for symbol, checks in shape_env.deferred_runtime_asserts.items()
        ],
    }


def assert_same_assumptions(actual: GraphModule, expected: GraphModule) -> None:
    """Check that two symbolic graphs assume the same of their inputs, whatever symbols are called.

    Raises:
        AssertionError: They do not; the message shows what differs.
    """
    __tracebackhide__ = True
    one, other = describe_assumptions(actual), describe_assumptions(expected)
    for kind in {**other, **one}:
        assert one.get(kind) == other.get(kind), (
            f"the graphs differ in {kind}\n"
            f"  actual:   {one.get(kind)}\n  expected: {other.get(kind)}"
        )
