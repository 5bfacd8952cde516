"""What can be captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.nn import Module
from torch.nn.parameter import is_lazy

from ..errors import UnsupportedError
from ._program import Program


def runnable(target: Callable[..., Any] | ExportedProgram) -> Callable[..., Any]:
    """Return the module or function that runs when `target` is captured.

    A program, ours or torch's, runs as a module with its parameters and buffers under their names.

    Raises:
        UnsupportedError: What it does cannot be seen, or it cannot run yet.
    """
    if isinstance(target, Program):
        target = target.to_exported_program()
    if isinstance(target, ExportedProgram):
        module: Module = target.module(check_guards=False)
        return module
    if isinstance(target, torch.jit.ScriptModule | torch.jit.ScriptFunction):
        raise UnsupportedError(
            "TorchScript runs what it compiled, which no tracer sees as the program it was",
            hint="capture the module or function that was given to torch.jit",
            stage="capture",
        )
    if isinstance(target, Module):
        _refuse_uninitialized(target)
    return target


def _refuse_uninitialized(module: Module) -> None:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise UnsupportedError(
                f"{name} has no shape before the module's first call",
                hint="call the module once before the capture",
                stage="capture",
            )
