"""Costs added up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .._table import table
from ._cost import CallCost, Cost, Gap, total
from ._values import Amount


@dataclass(frozen=True, slots=True)
class Row:
    """What an operator or a module costs in all.

    Attributes:
        name: The operator's name, or the module's path; "" is the captured module itself.
        kind: The module's type; "" for an operator.
        calls: How many calls there are, in loops as often as they run.
        cost: What they cost.
    """

    name: str
    kind: str
    calls: Amount
    cost: Cost


@dataclass(frozen=True)
class CostReport:
    """What a graph costs.

    Attributes:
        calls: The cost of each call of the graph, in order; those in regions are in `inner`.
    """

    calls: tuple[CallCost, ...]

    @cached_property
    def flat(self) -> tuple[CallCost, ...]:
        """The cost of each call, also of those in regions."""
        return tuple(each for call in self.calls for each in call.flat())

    @cached_property
    def total(self) -> Cost:
        """What a run costs."""
        return total(each.own for each in self.flat)

    @cached_property
    def gaps(self) -> Mapping[Gap, int]:
        """What the total leaves out or had to assume, and in how many places."""
        return Counter(gap for each in self.flat for gap in each.gaps)

    @cached_property
    def operators(self) -> tuple[Row, ...]:
        """What each operator costs, the costliest first; views and the like are left out."""
        names: dict[tuple[str, str], list[CallCost]] = {}
        for each in self.flat:
            if each.own != Cost() or each.gaps:
                names.setdefault((each.call.operator, ""), []).append(each)
        return _rows(names)

    @cached_property
    def modules(self) -> tuple[Row, ...]:
        """What each module costs with the modules in it, in the order in which they are called.

        Calls outside of all modules are in none. Graphs that were recorded without a module stack
        have no rows.
        """
        names: dict[tuple[str, str], list[CallCost]] = {}
        for each in self._attributed():
            for module in dict.fromkeys(each.call.modules):
                names.setdefault(module, []).append(each)
        return tuple(_row(name, kind, costs) for (name, kind), costs in names.items())

    def costs_by_node(self) -> Mapping[Any, Cost]:
        """Return what each node of the graph costs, regions included."""
        return {each.call.node: each.total for each in self.calls if each.call.node is not None}

    def lines(self, depth: int = 2, operators: int = 10) -> list[str]:
        """Return tables for people.

        Args:
            depth: How many levels of modules to show.
            operators: How many operators to show.
        """
        cost = self.total
        lines = [
            f"{written(cost.flops, 'FLOP')}, {written(cost.read, 'B')} read, "
            f"{written(cost.written, 'B')} written"
        ]
        lines += _table("OPERATOR", self.operators[:operators], cost, lambda row: row.name)
        hidden = len(self.operators) - operators
        lines += [f"... and {hidden} more operators"] if hidden > 0 else []
        shown = [row for row in self.modules if _depth(row.name) <= depth]
        lines += _table("MODULE", shown, cost, _module_label)
        lines += [f"not counted: {gap} ({count} x)" for gap, count in self.gaps.items()]
        return lines

    def data(self) -> dict[str, Any]:
        """Return everything for programs; symbolic amounts are text."""
        return {
            "total": _cost_data(self.total),
            "operators": [_row_data(row) for row in self.operators],
            "modules": [_row_data(row) for row in self.modules],
            "nodes": [
                {"name": node.name, "operator": each.call.operator, **_cost_data(each.total)}
                for each in self.calls
                if (node := each.call.node) is not None
            ],
            "gaps": [
                {"operator": gap.operator, "reason": gap.reason, "places": count}
                for gap, count in self.gaps.items()
            ],
        }

    def _attributed(self) -> Iterable[CallCost]:
        return (each for each in self.flat if each.call.modules and each.own != Cost())


def written(number: Amount, unit: str) -> str:
    """Return an amount as text in powers of a thousand, for example `1.23 MB`."""
    if not isinstance(number, int):
        return f"{number} {unit}"
    scaled = float(number)
    prefixes = iter(("", "k", "M", "G", "T"))
    prefix = next(prefixes)
    while scaled >= 999.5 and (larger := next(prefixes, None)):
        scaled, prefix = scaled / 1000, larger
    digits = f"{scaled:.3g}" if prefix and scaled < 100 else f"{scaled:.0f}"
    return f"{digits} {prefix}{unit}"


def _rows(names: Mapping[tuple[str, str], list[CallCost]]) -> tuple[Row, ...]:
    """Return rows with the costliest first; what symbolic sizes decide is told apart no further."""
    rows = [_row(name, kind, costs) for (name, kind), costs in names.items()]
    return tuple(sorted(rows, key=lambda row: _order(row.cost), reverse=True))


def _row(name: str, kind: str, costs: Sequence[CallCost]) -> Row:
    calls: Amount = sum(each.times for each in costs)
    return Row(name, kind, calls, total(each.own for each in costs))


def _order(cost: Cost) -> tuple[float, float]:
    return _typical(cost.flops), _typical(cost.moved)


def _typical(number: Amount) -> float:
    """Return a number to sort by: an expression's value where every symbol is a hundred."""
    if isinstance(number, int):
        return number
    value = number.subs(dict.fromkeys(number.free_symbols, 100))
    return float(value) if value.is_number and value.is_finite else 0.0


def _depth(path: str) -> int:
    return path.count(".") + 1 if path else 0


def _module_label(row: Row) -> str:
    name = row.name.rpartition(".")[2]
    return "  " * _depth(row.name) + (f"{name}: {row.kind}" if name else row.kind)


def _table(
    title: str, rows: Sequence[Row], all_of_it: Cost, label: Callable[[Row], str]
) -> list[str]:
    if not rows:
        return []
    header = (title, "CALLS", "FLOP", "SHARE", "READ", "WRITTEN")
    cells = [
        (
            label(row),
            str(row.calls),
            written(row.cost.flops, ""),
            _share(row.cost.flops, all_of_it.flops),
            written(row.cost.read, "B"),
            written(row.cost.written, "B"),
        )
        for row in rows
    ]
    return ["", *table(header, cells, right=(1, 2, 3, 4, 5))]


def _share(part: Amount, whole: Amount) -> str:
    if not isinstance(part, int) or not isinstance(whole, int) or not whole:
        return "" if part else "0 %"
    return f"{100 * part / whole:.3g} %"


def _cost_data(cost: Cost) -> dict[str, Any]:
    return {
        "flops": _plain(cost.flops),
        "read": _plain(cost.read),
        "written": _plain(cost.written),
    }


def _row_data(row: Row) -> dict[str, Any]:
    data = {"name": row.name, "calls": _plain(row.calls), **_cost_data(row.cost)}
    return {**data, "type": row.kind} if row.kind else data


def _plain(number: Amount) -> int | str:
    return number if isinstance(number, int) else str(number)
