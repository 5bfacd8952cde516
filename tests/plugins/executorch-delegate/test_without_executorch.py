"""Without ExecuTorch the plugin says what to install, and everything else works."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hopyard_executorch_delegate as plugin
from hopyard import Session
from hopyard.errors import UsageError
from hopyard_executorch_delegate import _executorch


@pytest.fixture(autouse=True)
def not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_executorch, "is_installed", lambda: False)


@pytest.mark.parametrize(
    "use",
    [
        lambda session, program: plugin.to_executorch(program, session=session),
        lambda session, program: plugin.delegate(program, session, ("xnnpack",)),
        lambda session, program: plugin.convert_to_executorch(program),
        lambda session, program: plugin.from_executorch(program, session),
        lambda session, program: plugin.run_pte(b"", []),
        lambda session, program: plugin.inspect_pte(b""),
    ],
)
def test_it_says_what_to_install(use: Callable[..., Any], session: Session) -> None:
    program = session.capture(torch.sin, (torch.ones(3),))
    with pytest.raises(UsageError, match="needs ExecuTorch") as caught:
        use(session, program)
    assert caught.value.hint == "install it with 'pip install executorch==1.5.1'"


def test_nothing_else_imports_it() -> None:
    code = """
import sys, torch
from hopyard import Session
import hopyard_executorch_delegate as plugin
session = Session()
program = session.capture(torch.sin, (torch.ones(3),))
print(plugin.report(plugin.delegate(program, session)).operators)
assert not [name for name in sys.modules if name.partition(".")[0] == "executorch"]
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "100.0% (1 of 1)\n"), done.stderr
