"""Values that several hooks share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Reference: TypeAlias = str | Callable[..., Any]
"""An object, or `"package.module:attribute"` naming one that is imported when first used.

The textual form keeps a plugin's declarations free of heavy imports: `hopyard passes` lists a pass
without importing torch.
"""

TracingMode: TypeAlias = Literal["real", "fake", "symbolic"]
"""How a capture computes values: on the given tensors, on fake tensors without data, or on fake
tensors whose sizes are symbols.
"""


@dataclass(frozen=True, slots=True)
class Provider:
    """Who stands behind a registered name: a plugin, its distribution and its version."""

    plugin: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.plugin} [{self.distribution} {self.version}]"


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """A line of the user's source."""

    file: str
    line: int
    function: str = ""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}"
        return f"{where} in {self.function}" if self.function else where


@dataclass(frozen=True, slots=True)
class CaptureRequest:
    """What is about to be captured: the callable, its example inputs and the manner of tracing.

    Attributes:
        target: The module or function.
        args: Positional example inputs, as given by the user. Never modify them.
        kwargs: Keyword example inputs.
        tracing_mode: `"fake"` computes shapes only, `"real"` also values, `"symbolic"` shapes
            with symbols for sizes.
        pre_dispatch: Whether the graph is taken above autograd.
        dynamic_shapes: Which sizes differ from call to call, as `torch.export` takes it; None if
            none does.
    """

    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    tracing_mode: TracingMode = "fake"
    pre_dispatch: bool = False
    dynamic_shapes: Any = None
