"""The mode: sees every operator that a capture runs, and compares with what the graph keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch.fx import GraphModule

from hopyard.analysis import Call, CallCost, CostReport, cost_of, cost_of_calls, specified, written
from hopyard.modes import OperatorMode
from hopyard_hookspecs import CaptureRequest, Report


class FlopCount(OperatorMode):
    """Counts what the program does while it is captured.

    A capture runs on fake tensors, so an operator is noted with the sizes of its operands and of
    its result, and left alone. What that costs is worked out when the capture is over.

    Args:
        request: What is captured.
    """

    def __init__(self, request: CaptureRequest) -> None:
        super().__init__()
        self.request = request
        self.calls: list[Call] = []

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        # Before the call: it may change the sizes of an operand in place.
        operands, options = specified((tuple(args), dict(kwargs)))
        result = function(*args, **kwargs)
        self.calls.append(Call(function, operands, options, specified(result)))
        return result

    def report(self, graph_module: GraphModule) -> Report:
        """Report what a run of the graph costs, and what ran in vain."""
        cost = cost_of(graph_module)
        total = cost.total
        moved = written(total.moved, "B")
        summary = f"{written(total.flops, 'FLOP')}, {moved} moved"
        if cost.gaps:
            summary += f", {len(cost.gaps)} not counted"
        dropped = self._dropped(cost)
        lines = cost.lines()
        if dropped:
            lines.append(f"dropped: {written(dropped, 'FLOP')} that ran have no effect")
        return Report(summary, tuple(lines), {**cost.data(), "dropped": dropped})

    def _dropped(self, kept: CostReport) -> int:
        """Return how many operations ran whose results nobody uses.

        The bodies of regions are not seen here, and symbolic numbers do not compare.
        """
        ran = cost_of_calls(self.calls)
        in_graph = [each for each in kept.calls if not each.inner]
        difference = _flops(ran) - _flops(in_graph)
        return difference if isinstance(difference, int) and difference > 0 else 0


def _flops(costs: Sequence[CallCost]) -> Any:
    return sum(each.own.flops for each in costs)
