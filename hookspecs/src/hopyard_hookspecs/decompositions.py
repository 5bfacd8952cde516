"""Decomposition tables: operators that captures record as what they decompose into."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ._markers import hookspec, provisional
from ._names import check_kebab
from .types import Reference


@provisional
@dataclass(frozen=True, slots=True)
class Decompositions:
    """A table of decompositions that captures may use.

    Attributes:
        name: Lower-case words joined by hyphens, unique in a session.
        table: Called without arguments at the start of each capture that uses the table; returns a
            mapping from operator overloads to functions with the operator's signature.
        summary: One line for listings.
        default: Whether captures use the table without being asked.
    """

    name: str
    table: Reference
    summary: str = ""
    default: bool = False

    def __post_init__(self) -> None:
        check_kebab("decompositions", self.name)


@provisional
@hookspec
def hopyard_register_decompositions() -> Iterable[Decompositions]:  # type: ignore[empty-body]
    """Yield the decomposition tables that captures may use; called once when a session is made.

    Example:
        .. code-block:: python

            @hookimpl
            def hopyard_register_decompositions():
                yield Decompositions("core-aten", table="torch.export:default_decompositions")

        `session.capture(module, args, decompositions=["core-aten"])` uses it.

    .. versionadded:: 0.1
    """
