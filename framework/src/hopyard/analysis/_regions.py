"""How often a higher-order operator runs its regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from hopyard_hookspecs import Hop
from hopyard_hookspecs.hops import call_body

from .._torch.dispatch import HigherOrderOperator, OpOverload
from .._torch.pytree import tree_leaves
from ._calls import Call, Region
from ._values import Amount, TensorSpec


@dataclass(frozen=True, slots=True)
class Run:
    """A region and how often it runs."""

    region: Region
    times: Amount = 1


@dataclass(frozen=True, slots=True)
class Runs:
    """What a call runs.

    Attributes:
        regions: The regions.
        exclusive: Whether only one of them runs.
        assumption: What had to be assumed; "" if nothing had to.
    """

    regions: tuple[Run, ...]
    exclusive: bool = False
    assumption: str = ""


Rule: TypeAlias = Callable[[Call], Runs]


def runs_of(call: Call) -> Runs | None:
    """Return what a higher-order operator runs; None for any other, or if it runs no region."""
    if not isinstance(call.target, (HigherOrderOperator, str)):
        return None
    rule = _RULES.get(call.operator.rpartition(".")[2])
    if rule is not None:
        return rule(call)
    regions = _regions(call)
    if not regions:
        return None
    return _once(call) if _is_plain(call, regions) else _each_once(call)


def _is_plain(call: Call, regions: tuple[Region, ...]) -> bool:
    """Say whether it is known that the call runs its regions once: by definition, or as lowered."""
    definition = getattr(call.target, "definition", None)
    runs_its_body = isinstance(definition, Hop) and definition.eager is call_body
    return runs_its_body or all(region.is_lowered for region in regions)


def _regions(call: Call) -> tuple[Region, ...]:
    leaves = tree_leaves((call.args, dict(call.kwargs)))
    return tuple(leaf for leaf in leaves if isinstance(leaf, Region))


def _once(call: Call) -> Runs:
    return Runs(tuple(Run(region) for region in _regions(call)))


def _each_once(call: Call) -> Runs:
    return replace(_once(call), assumption="each of its regions is assumed to run once")


def _one_of(call: Call) -> Runs:
    return replace(_once(call), exclusive=True)


def _one_iteration(call: Call) -> Runs:
    return replace(
        _once(call), assumption="its values decide how often it repeats; one iteration is counted"
    )


def _for_each(call: Call, operand: int, fewer: int = 0, assumption: str = "") -> Runs:
    """Run the regions once for each slice of the tensors that are an operand."""
    given = [leaf for leaf in tree_leaves(call.args[operand]) if isinstance(leaf, TensorSpec)]
    if not given:
        return _each_once(call)
    times = given[0].shape[0] - fewer
    return Runs(tuple(Run(region, times) for region in _regions(call)), assumption=assumption)


def _map(call: Call) -> Runs:
    return _for_each(call, operand=1)


def _scan(call: Call) -> Runs:
    return _for_each(call, operand=2)


def _associative_scan(call: Call) -> Runs:
    return _for_each(
        call,
        operand=1,
        fewer=1,
        assumption="the backend decides how often it combines; once less than there are elements, "
        "which is the least, is counted",
    )


def _wrapped(position: int) -> Rule:
    """Return the rule of an operator that calls another one with the operands that follow it."""

    def rule(call: Call) -> Runs:
        inner = call.args[position]
        if not isinstance(inner, (OpOverload, HigherOrderOperator)):
            return _each_once(call)
        kwargs = {name: value for name, value in call.kwargs.items() if not name.startswith("_")}
        operands = call.args[_OPERANDS.get(call.operator, position + 1) :]
        problem = "" if call.operator != "auto_functionalized_v2" else _lacking(inner, kwargs)
        calls = (Call(inner, operands, kwargs, call.result, call.modules, problem=problem),)
        return Runs((Run(Region(calls)),))

    return rule


def _lacking(operator: Any, kwargs: Mapping[str, Any]) -> str:
    """Say that arguments are views of others, which only the backend makes."""
    names = {argument.name for argument in operator._schema.arguments}
    return "" if names <= set(kwargs) else "what it changes is known to the backend only"


_OPERANDS = {"out_dtype": 2}
_RULES: Mapping[str, Rule] = {
    "cond": _one_of,
    "switch": _one_of,
    "while_loop": _one_iteration,
    "while_loop_stack_output": _one_iteration,
    "map_impl": _map,
    "map": _map,
    "scan": _scan,
    "associative_scan": _associative_scan,
    "auto_functionalized": _wrapped(0),
    "auto_functionalized_v2": _wrapped(0),
    "out_dtype": _wrapped(0),
    "with_effects": _wrapped(1),
    **dict.fromkeys(
        (
            "hints_wrap",
            "inline_asm_elementwise",
            "invoke_subgraph",
            "strict_mode",
            "tag_activation_checkpoint",
            "wrap",
            "wrap_activation_checkpoint",
            "wrap_with_autocast",
            "wrap_with_set_grad_enabled",
        ),
        _once,
    ),
}
"""Rules by the operator's name."""
