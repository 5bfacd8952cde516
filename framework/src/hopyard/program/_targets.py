"""What can be captured."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn import Module, Parameter
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
        return _ProgramModule(target)
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


class _ProgramModule(Module):
    """A module that runs a program on its own parameters, buffers and objects: the program's."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self._program = program
        for spec in program.signature.input_specs:
            if spec.target in program.state:
                self._register(str(spec.target), persistent=spec.persistent is not False)
        for name, value in self._objects().items():
            setattr(self, name, value)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        state = {name: operator.attrgetter(name)(self) for name in self._program.state}
        objects = {name: getattr(self, name) for name in self._objects()}
        constants = {**self._program.constants, **objects}
        return self._program.replaced(state=state, constants=constants)(*args, **kwargs)

    def _objects(self) -> dict[str, Any]:
        """Return the objects that the program holds, without examples of its inputs."""
        constants = self._program.constants
        held = [
            str(spec.target)
            for spec in self._program.signature.input_specs
            if spec.kind is InputKind.CUSTOM_OBJ
        ]
        return {name: constants[name] for name in held}

    def _register(self, name: str, *, persistent: bool) -> None:
        *path, last = name.split(".")
        owner: Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, Module())
            owner = owner.get_submodule(part)
        tensor = self._program.state[name]
        if isinstance(tensor, Parameter):
            owner.register_parameter(last, tensor)
        else:
            owner.register_buffer(last, tensor, persistent=persistent)


def _refuse_uninitialized(module: Module) -> None:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if is_lazy(tensor):
            raise UnsupportedError(
                f"{name} has no shape before the module's first call",
                hint="call the module once before the capture",
                stage="capture",
            )
