"""What a registered thing may be called."""

from __future__ import annotations

import re

_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_HOP = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*__[a-z][a-z0-9]*(_[a-z0-9]+)*")
_HAZARD = re.compile(r"[A-Z]{2,4}[0-9]{3}")


def check_kebab(kind: str, name: str) -> None:
    """Refuse a name that pipeline text and command lines could not carry unquoted.

    Raises:
        ValueError: `name` is not lower-case words joined by single hyphens.
    """
    if not _KEBAB.fullmatch(name):
        raise ValueError(f"{kind} name {name!r} must be lower-case words joined by hyphens")


def check_hop(name: str) -> None:
    """Refuse a HOP name that torch's flat registry or fx's generated code could not carry.

    Raises:
        ValueError: `name` is not of the form `<slug>__<name>`, an identifier in lower case.
    """
    if not _HOP.fullmatch(name):
        raise ValueError(
            f"HOP name {name!r} must read <slug>__<name> in lower case, for example "
            "'my_plugin__scale': the plugin's slug with underscores, two underscores, a name"
        )


def check_hazard(code: str) -> None:
    """Refuse a hazard code that is not letters and three digits, as `HY101`.

    Raises:
        ValueError: `code` has another form.
    """
    if not _HAZARD.fullmatch(code):
        raise ValueError(f"hazard code {code!r} must be two to four capitals and three digits")
