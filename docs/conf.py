"""How the documentation is built: MyST pages, and references generated from docstrings."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Hopyard"
author = "The Hopyard developers"
copyright = f"2026, {author}"  # noqa: A001

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "hopyard_reference",
]
exclude_patterns = ["_build", "examples"]
html_theme = "furo"
html_title = "Hopyard"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

default_role = "code"
add_module_names = False
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Every reference to something of ours must resolve. Other packages publish documentation of their
# own; looking it up would make the build need a network. A bare word is the name of a type in an
# annotation that is only imported for type checkers; a name of a private module, a type variable
# or an alias that annotations spell out.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|pluggy|sympy|importlib_metadata|packaging|rich|collections|typing)\..*"),
    (r"py:.*", r"(pathlib|types|dataclasses|contextlib|enum|argparse|os|_io|io)\..*"),
    (r"py:class", r"\w+(\[.*)?"),
    (r"py:(class|obj)", r"hopyard\w*(\.\w+)*\._\w+\..*"),
]
