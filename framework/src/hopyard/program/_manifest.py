"""Which software a program was made with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hopyard_hookspecs import Provider

FORMAT = 1
"""Version of the manifest's own layout."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """The versions of Hopyard and torch, and the plugins that were active.

    Attributes:
        hopyard: Version of the `hopyard` distribution.
        torch: Version of torch.
        plugins: The active plugins, sorted by slug.
        hops: Names of the higher-order operators in the graph; loading needs their plugins.
    """

    hopyard: str
    torch: str
    plugins: tuple[Provider, ...] = ()
    hops: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the manifest as JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: The text is no manifest, or one of a later format.
        """
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            found = data.get("format") if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"manifest format {found!r} instead of {FORMAT}")
        return cls(
            hopyard=str(data["hopyard"]),
            torch=str(data["torch"]),
            plugins=_providers(data["plugins"]),
            hops=tuple(str(name) for name in data["hops"]),
        )


def _providers(data: Sequence[Any]) -> tuple[Provider, ...]:
    return tuple(
        Provider(str(item["plugin"]), str(item["distribution"]), str(item["version"]))
        for item in data
    )
