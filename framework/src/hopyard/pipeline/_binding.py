"""From names in a pipeline to passes that can run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeAlias

from hopyard.errors import PluginError, UnknownNameError, UsageError
from hopyard.plugins import Registered, distribution_for, resolve
from hopyard_hookspecs import Pass, PassKind, PassStep, Reference

from ._items import Item, Regions, Repeat, Step
from ._options import construct
from ._order import check_order
from ._pipeline import Pipeline

Condition: TypeAlias = Callable[[Any], str]
"""Returns what keeps a graph from being as it is demanded, or "" if nothing does."""


@dataclass(frozen=True, slots=True, eq=False)
class BoundPass:
    """A pass with its options set, ready to run.

    Attributes:
        step: What observers are told: position, name, all options, who registered it.
        kind: Whether it transforms a graph module or a program.
        transform: The pass itself.
        requires: What must be true of the graph before it, by name.
        ensures: What is true of the graph after it, by name.
    """

    step: PassStep
    kind: PassKind
    transform: Callable[..., Any]
    requires: Mapping[str, Condition] = field(default_factory=dict)
    ensures: Mapping[str, Condition] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class BoundGroup:
    """A group of passes that are ready to run.

    Attributes:
        group: What to do with them.
        passes: The passes and groups in it that are switched on.
    """

    group: Repeat | Regions
    passes: tuple[BoundPass | BoundGroup, ...]


def resolve_steps(
    pipeline: Pipeline, passes: Mapping[str, Registered[Pass]]
) -> tuple[BoundPass | BoundGroup, ...]:
    """Find and construct the passes of a pipeline, each occurrence anew.

    Those that are switched off are checked as well, and left out.

    Args:
        pipeline: What to run.
        passes: The passes there are, by name.

    Raises:
        UnknownNameError: There is no pass of that name; the error says which distribution has it.
        OptionError: A pass does not take the options, or misses one.
        OrderError: A pass must run before or after another, and does not.
        UsageError: A pass that transforms programs stands among those for bodies of regions.
        PluginError: A pass cannot be imported, or its implementation is unusable.
        PassError: Constructing a pass raised.
    """
    bound = [_bind(index, step, passes) for index, step in enumerate(pipeline.passes)]
    check_order(pipeline.steps, passes)
    return tuple(_arranged(pipeline.steps, iter(bound), in_region=False))


def _arranged(
    items: Iterable[Item], bound: Iterator[BoundPass], *, in_region: bool
) -> Iterator[BoundPass | BoundGroup]:
    """Yield what is switched on, taking passes in the order in which they stand in the pipeline."""
    for item in items:
        if isinstance(item, Step):
            each = next(bound)
            if in_region and each.kind == "program":
                raise UsageError(
                    f"pass {each.step.name!r} transforms whole programs, not bodies of regions",
                    hint="move it out of regions(...)",
                    stage=each.step.name,
                )
            if item.enabled:
                yield each
            continue
        inside = in_region or isinstance(item, Regions)
        passes = tuple(_arranged(item.steps, bound, in_region=inside))
        if item.enabled and passes:
            yield BoundGroup(item, passes)


def _bind(index: int, step: Step, passes: Mapping[str, Registered[Pass]]) -> BoundPass:
    registered = passes.get(step.name)
    if registered is None:
        distribution = distribution_for("pass", step.name)
        raise UnknownNameError("pass", step.name, passes, distribution=distribution)
    provider, declared = registered.provider, registered.value
    implementation = resolve(declared.implementation, provider)
    if not callable(implementation):
        raise _unusable(step.name, registered, f"is a {type(implementation).__name__}")
    transform, options = construct(implementation, step.options, step.name, provider)
    if not callable(transform):
        raise _unusable(step.name, registered, f"{type(transform).__name__} has no __call__")
    bound = PassStep(index, step.name, MappingProxyType(options), provider)
    return BoundPass(
        bound,
        declared.kind,
        transform,
        _conditions(declared.requires, registered),
        _conditions(declared.ensures, registered),
    )


def _conditions(
    references: tuple[Reference, ...], registered: Registered[Pass]
) -> dict[str, Condition]:
    conditions: dict[str, Condition] = {}
    for reference in references:
        found = resolve(reference, registered.provider)
        if not callable(found):
            raise _unusable(registered.value.name, registered, f"has the condition {reference!r}")
        name = getattr(found, "__name__", type(found).__name__)
        conditions[name.strip("_").replace("_", " ")] = found
    return conditions


def _unusable(name: str, registered: Registered[Pass], reason: str) -> PluginError:
    return PluginError(
        f"pass {name!r} cannot be called: its implementation {reason}",
        hint="register a dataclass with __call__, or a function",
        plugin=registered.provider,
        stage=name,
    )
