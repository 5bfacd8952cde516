"""Which sizes may differ from call to call, as a command line says it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError

_TEXT = re.compile(r"(\w+):(-?\d+)(?:=([A-Za-z_]\w*)(?:\[(\d*)\.\.(\d*)\])?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class DynamicSize:
    """One dimension of one input.

    Attributes:
        parameter: The input.
        dimension: Which of its dimensions.
        name: Dimensions of one name have one size; "" for a size of its own.
        least: The smallest size, or None.
        greatest: The largest size, or None.
    """

    parameter: str
    dimension: int
    name: str = ""
    least: int | None = None
    greatest: int | None = None

    @classmethod
    def parse(cls, text: str) -> DynamicSize:
        """Read `INPUT:DIMENSION`, perhaps with `=NAME`, perhaps with `[LEAST..GREATEST]`.

        Raises:
            UsageError: The text is another.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            raise UsageError(
                f"--dynamic {text!r} does not say which dimension of which input",
                hint="write for example x:0, x:0=batch or x:0=batch[2..64]",
            )
        parameter, dimension, name, least, greatest = found.groups()
        return cls(
            parameter,
            int(dimension),
            name or "",
            int(least) if least else None,
            int(greatest) if greatest else None,
        )


def dynamic_shapes(sizes: Iterable[DynamicSize]) -> dict[str, dict[int, Any]] | None:
    """Return sizes as a capture takes them; None if there are none."""
    from torch.export import Dim

    shapes: dict[str, dict[int, Any]] = {}
    dims: dict[str, Any] = {}
    for size in sizes:
        if size.name and size.name not in dims:
            dims[size.name] = Dim(size.name, min=size.least, max=size.greatest)
        asked = dims[size.name] if size.name else Dim.DYNAMIC
        shapes.setdefault(size.parameter, {})[size.dimension] = asked
    return shapes or None
