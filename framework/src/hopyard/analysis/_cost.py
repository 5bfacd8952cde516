"""The cost of calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import sympy  # type: ignore[import-untyped]

from ._calls import Call
from ._decomposing import decomposed
from ._formulas import FORMULA_ERRORS, Formula, apply_formula, formula_for, is_linear
from ._regions import runs_of
from ._traffic import bytes_of
from ._values import Amount


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount of work.

    Attributes:
        flops: Floating-point operations; a multiplication with an addition is two.
        read: Bytes read.
        written: Bytes written.
    """

    flops: Amount = 0
    read: Amount = 0
    written: Amount = 0

    @property
    def moved(self) -> Amount:
        """Bytes read and written."""
        return self.read + self.written

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.flops + other.flops, self.read + other.read, self.written + other.written)

    def __mul__(self, times: Amount) -> Cost:
        return Cost(self.flops * times, self.read * times, self.written * times)


@dataclass(frozen=True, slots=True)
class Gap:
    """Something that a cost leaves out, or had to assume.

    Attributes:
        operator: The operator's name.
        reason: What is not known of it.
    """

    operator: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operator}: {self.reason}"


@dataclass(frozen=True, slots=True)
class CallCost:
    """What a call costs.

    Attributes:
        call: The call.
        own: What the operator does itself.
        times: How often the call runs: more than once if it is in a loop.
        inner: What the calls in its regions cost, loops counted.
        gaps: What is left out of `own`, or assumed of the regions.
    """

    call: Call
    own: Cost
    times: Amount = 1
    inner: tuple[CallCost, ...] = ()
    gaps: tuple[Gap, ...] = ()

    @property
    def total(self) -> Cost:
        """What the call costs with everything in its regions."""
        return total(each.own for each in self.flat())

    def flat(self) -> Iterator[CallCost]:
        """Yield this and the calls in its regions, however deep."""
        yield self
        for each in self.inner:
            yield from each.flat()

    def scaled(self, times: Amount) -> CallCost:
        """Return the cost of as many runs of the call."""
        if times == 1:
            return self
        inner = tuple(each.scaled(times) for each in self.inner)
        return replace(self, own=self.own * times, times=self.times * times, inner=inner)


def total(costs: Iterable[Cost]) -> Cost:
    """Return the sum."""
    result = Cost()
    for cost in costs:
        result += cost
    return result


def cost_of_calls(
    calls: Iterable[Call], formulas: Mapping[Any, Formula] | None = None
) -> tuple[CallCost, ...]:
    """Return what each call costs; see :func:`cost_of_call`."""
    return tuple(cost_of_call(call, formulas) for call in calls)


def cost_of_call(call: Call, formulas: Mapping[Any, Formula] | None = None) -> CallCost:
    """Return what a call costs.

    A higher-order operator costs what its regions do: a loop as often as its body runs if that can
    be told, a choice as much as its costliest branch.

    Args:
        call: The call.
        formulas: Formulas that go before torch's, by operator; see
            :data:`hopyard.analysis.Formula`.
    """
    if call.problem:
        return CallCost(call, Cost(), gaps=(Gap(call.operator, call.problem),))
    gaps: list[Gap] = []
    found = formula_for(call.target, formulas)
    inner: tuple[CallCost, ...] = ()
    flops: Amount = 0
    if found is not None:
        try:
            flops = apply_formula(found, call.args, call.kwargs, call.result)
        except FORMULA_ERRORS as error:
            gaps.append(Gap(call.operator, f"its formula failed: {_one_line(error)}"))
    elif (runs := runs_of(call)) is not None:
        branches = [
            tuple(cost_of_call(each, formulas).scaled(run.times) for each in run.region.calls)
            for run in runs.regions
        ]
        inner = _costliest(branches) if runs.exclusive else tuple(c for b in branches for c in b)
        gaps += [Gap(call.operator, runs.assumption)] if runs.assumption else []
    elif (parts := decomposed(call)) is not None:
        flops = total(cost_of_call(part, formulas).total for part in parts).flops
    elif not is_linear(call.target):
        gaps.append(Gap(call.operator, "there is no formula for it"))
    read: Amount = 0
    written: Amount = 0
    try:
        read, written = bytes_of(call)
    except ValueError as error:
        gaps.append(Gap(call.operator, f"its bytes are not counted, since {error}"))
    return CallCost(call, Cost(flops, read, written), inner=inner, gaps=tuple(gaps))


def _costliest(branches: list[tuple[CallCost, ...]]) -> tuple[CallCost, ...]:
    """Return the branch with the most operations, or bytes if they are as many.

    Where symbolic sizes decide, each branch is weighted with the condition that it is the one.
    """
    if not branches:
        return ()
    best, best_cost = branches[0], total(each.total for each in branches[0])
    for branch in branches[1:]:
        cost = total(each.total for each in branch)
        key = "moved" if cost.flops == best_cost.flops else "flops"
        more = getattr(cost, key) > getattr(best_cost, key)
        if more in (True, sympy.true):
            best, best_cost = branch, cost
        elif more not in (False, sympy.false):
            is_more = sympy.Piecewise((1, more), (0, True))
            best = (
                *(each.scaled(1 - is_more) for each in best),
                *(each.scaled(is_more) for each in branch),
            )
            best_cost = total(each.total for each in best)
    return best


def _one_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
