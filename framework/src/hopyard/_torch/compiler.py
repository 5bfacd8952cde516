"""Dynamo: the bytecode analyser behind `torch.compile` and strict export.

Importing this module imports Dynamo, which takes seconds; import it where it is used.
"""

from __future__ import annotations

from torch._dynamo.exc import Unsupported as GraphBreak

__all__ = ["GraphBreak"]
