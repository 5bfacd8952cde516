"""Higher-order operators (HOPs): operators that take a graph, and how a tracer records them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ._markers import hookspec, provisional
from ._names import check_hop
from .types import Reference

HopKind: TypeAlias = Literal["region", "operator"]
"""`"region"`: called as `(body, *operands, **config)`; `"operator"`: called as `(*operands)`."""


def call_body(body: Callable[..., Any], *operands: Any, **config: Any) -> Any:
    """Run the body on the operands: what a region means unless its author says otherwise."""
    return body(*operands)


@dataclass(frozen=True, slots=True, eq=False)
class Hop:
    """A higher-order operator: a name, its eager meaning and optional rules.

    Two definitions are the same only if they are the same object, since a rule is code and code has
    no equality.

    Attributes:
        name: `<slug>__<name>`, unique in the process.
        eager: What a call computes when nothing traces: `(body, *operands, **config)` for a region,
            `(*operands)` for an operator. The default runs the body.
        kind: A region carries a body that tracers descend into; an operator does not.
        summary: One line for listings.
        writes: Whether a body may change what it is given in place. If not, which is safer, a
            tracer refuses such a body; if so, the calls are kept in graphs whether or not their
            results are used.
        rules: Replacements of default rules by surface, for example
            `{"autograd": my_autograd_rule}`. `hopyard.hops` lists the surfaces.
        restore: For an operator whose first operand is a module that is no graph: makes it again of
            what its `to_artifact()`, a graph and bytes, left in a file. Called as
            `(graph_module, content, session, trust)`; native code needs `trust`.
    """

    name: str
    eager: Callable[..., Any] = call_body
    kind: HopKind = "region"
    summary: str = ""
    rules: Mapping[str, Callable[..., Any]] = field(default_factory=dict)
    writes: bool = False
    restore: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        check_hop(self.name)


@provisional
@dataclass(frozen=True, slots=True)
class TraceRule:
    """How Hopyard's tracer records a call of a HOP that another package defined.

    Attributes:
        operator: The HOP's name in torch's registry, for example `"cond"`.
        rule: Called as `rule(tracer, operator, args, kwargs)` with the call's real or fake values;
            records the call through `tracer` and returns the call's result.
        summary: One line for listings.
    """

    operator: str
    rule: Reference
    summary: str = ""


@hookspec
def hopyard_register_hops() -> Iterable[Hop]:  # type: ignore[empty-body]
    """Yield the higher-order operators that the plugin defines; called once when a session is made.

    Example:
        .. code-block:: python

            def scaled(body, *operands, factor):
                return factor * body(*operands)

            SCALE = Hop("my_plugin__scale", eager=scaled)

            @hookimpl
            def hopyard_register_hops():
                yield SCALE

        `hopyard.hops.bind(SCALE)` is the operator to call.

    .. versionadded:: 0.1
    """


@provisional
@hookspec
def hopyard_register_trace_rules() -> Iterable[TraceRule]:  # type: ignore[empty-body]
    """Yield rules for tracing HOPs of other packages; called once when a session is made.

    Example:
        .. code-block:: python

            @hookimpl
            def hopyard_register_trace_rules():
                yield TraceRule("cond", rule="my_plugin.rules:trace_cond")

    .. versionadded:: 0.1
    """
