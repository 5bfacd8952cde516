"""New plugins: a distribution of one's own that works, to be changed into what one wants.

The folders beside this module hold the files of a plugin, by kind. In their names and contents,
`PACKAGE` and words in `${...}` are filled in.
"""

from __future__ import annotations

from ._make import KINDS as KINDS
from ._make import new_plugin as new_plugin
