"""The command line: what is installed, what it offers, and a program captured and written.

A command returns an answer and prints nothing itself. Answers go to standard output; warnings,
errors and progress go to standard error. Commands that only list leave torch unloaded.
"""

from __future__ import annotations

from ._main import main as main
