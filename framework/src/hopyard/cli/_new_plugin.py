"""`hopyard new-plugin`."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..scaffold import KINDS, new_plugin
from ._answer import Answer

SUMMARY = "Make a distribution with a plugin that works, tests included, to build upon."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("slug", metavar="NAME", help="names the plugin, for example my-op")
    parser.add_argument(
        "--kind", default=KINDS[0], choices=KINDS, help="what it offers: a higher-order operator"
    )
    parser.add_argument(
        "--folder", type=Path, default=Path(), help="where to make it (the working directory)"
    )


def answer(arguments: argparse.Namespace) -> Answer:
    """Make the distribution and say how to go on.

    Raises:
        UsageError: The name is none, or taken, or the files cannot be written.
    """
    made = new_plugin(arguments.slug, arguments.folder, arguments.kind)
    files = sorted(str(file.relative_to(made)) for file in made.rglob("*") if file.is_file())
    lines = [
        f"made {made}:",
        *(f"  {file}" for file in files),
        "",
        "install it, see it, test it:",
        f"  pip install --editable {made}",
        "  hopyard plugins list",
        f"  pytest {made}",
    ]
    return Answer(lines, {"folder": str(made), "files": files})
