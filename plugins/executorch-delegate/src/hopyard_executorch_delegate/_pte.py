"""Programs of ExecuTorch: written, run and looked into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from hopyard import Program, Session
from hopyard.errors import ArtifactError, InputError, ProgramError

from ._convert import convert_to_executorch
from ._delegate import delegate
from ._executorch import require
from ._inline import inline_regions
from ._lowering import Progress

_MAGIC = (b"ET12", b"ET13")
_HEADER = b"eh00"


@dataclass(frozen=True, slots=True)
class PteDelegate:
    """A delegate in a file.

    Attributes:
        backend: What ExecuTorch's runtime calls its backend.
        size: The number of its bytes, named data not included.
    """

    backend: str
    size: int


@dataclass(frozen=True, slots=True)
class PteListing:
    """What a program of ExecuTorch holds.

    Attributes:
        size: Its size in bytes.
        methods: Its methods.
        delegates: Its delegates, in the order of the file.
        operators: The operators that it calls itself, and how often.
        named_data: The size of each named blob.
    """

    size: int
    methods: tuple[str, ...]
    delegates: tuple[PteDelegate, ...]
    operators: Mapping[str, int]
    named_data: Mapping[str, int]

    def __str__(self) -> str:
        lines = [f"{self.size} bytes, methods: {', '.join(self.methods)}"]
        for backend, count in Counter(each.backend for each in self.delegates).items():
            size = sum(each.size for each in self.delegates if each.backend == backend)
            lines.append(f"  {count} delegates of {backend}, {size} bytes")
        if self.named_data:
            total = sum(self.named_data.values())
            lines.append(f"  {len(self.named_data)} blobs of named data, {total} bytes")
        lines += [f"  {name} ({count} x)" for name, count in self.operators.items()]
        return "\n".join(lines)


def to_executorch(
    program: Program,
    backends: Sequence[str] = ("xnnpack",),
    *,
    session: Session | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    minimum: int = 1,
    cache: str | PathLike[str] | None = None,
    workers: int = 1,
    progress: Callable[[Progress], None] | None = None,
) -> bytes:
    """Return a program as a `.pte` file, which ExecuTorch's runtime executes.

    Args:
        program: The program; partitions of it may have been delegated before.
        backends: Backends that what is not delegated yet is offered to, by priority; with none,
            ExecuTorch's portable kernels run it.
        session: Where backends are looked up; by default all installed plugins.
        options: What partitions are lowered with, by the backend's name.
        minimum: The number of operators from which a partition is worth lowering.
        cache: A folder where lowered partitions are kept.
        workers: How many partitions are lowered at once where their backends allow it.
        progress: Called as each partition is lowered.

    Raises:
        UsageError: ExecuTorch is not installed.
        DelegationError: A backend failed.
        ProgramError: ExecuTorch refuses the program.
    """
    require("to_executorch")
    program = inline_regions(program)
    if backends:
        program = delegate(
            program,
            session or Session(),
            backends,
            options=options,
            minimum=minimum,
            cache=cache,
            workers=workers,
            progress=progress,
        )
    exported = convert_to_executorch(program)
    from executorch.exir import EdgeCompileConfig, to_edge

    try:
        edge = to_edge(exported, compile_config=EdgeCompileConfig(_check_ir_validity=False))
        return bytes(edge.to_executorch().buffer)
    except Exception as error:
        first_line = str(error).strip().partition("\n")[0]
        raise ProgramError(
            f"ExecuTorch cannot take the program: {type(error).__name__}: {first_line}",
            hint="decompose it first, for example with the pass decompose{table=core-aten}",
            stage="to_executorch",
        ) from error


def run_pte(program: bytes, inputs: Sequence[Any], *, method: str = "forward") -> list[Any]:
    """Run a program of ExecuTorch once and return its outputs.

    Args:
        program: The content of a `.pte` file.
        inputs: Tensors and numbers, flat.
        method: The method to run.

    Raises:
        UsageError: ExecuTorch is not installed.
        ArtifactError: The program is damaged, or needs a backend or operator that is not there.
        InputError: The inputs are not what the method takes.
    """
    return PteProgram(program)(*inputs, method=method)


class PteProgram:
    """A loaded program of ExecuTorch; what it writes to its buffers stays from call to call.

    Args:
        program: The content of a `.pte` file.

    Raises:
        UsageError: ExecuTorch is not installed.
        ArtifactError: The program is damaged.
    """

    def __init__(self, program: bytes) -> None:
        require("run_pte")
        from executorch.runtime import Runtime, Verification

        check_pte(program)
        self._content = program
        self._runtime = Runtime.get()
        self._methods: dict[str, Any] = {}
        try:
            self._program = self._runtime.load_program(
                program, verification=Verification.InternalConsistency
            )
        except (RuntimeError, ValueError) as error:
            raise _unreadable(str(error)) from error

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods it has."""
        return tuple(sorted(self._program.method_names))

    def __call__(self, *inputs: Any, method: str = "forward") -> list[Any]:
        """Run a method.

        Raises:
            ArtifactError: There is no such method, or it needs what the runtime does not have.
            InputError: The inputs are not what the method takes.
        """
        loaded = self._methods.get(method) or self._loaded(method)
        _check_inputs(loaded.metadata, inputs)
        try:
            return list(loaded.execute(list(inputs)))
        except RuntimeError as error:
            # What went wrong left the method in a state that nobody knows.
            self._methods.pop(method, None)
            raise InputError(
                f"the program cannot run on these inputs: {_first_line(error)}",
                hint="pass inputs of the sizes that it was captured for",
                stage="run_pte",
            ) from error

    def _loaded(self, name: str) -> Any:
        if name not in self._program.method_names:
            raise ArtifactError(
                f"the program has no method {name!r}",
                hint=f"its methods are {', '.join(self.method_names)}",
                stage="run_pte",
            )
        try:
            loaded = self._program.load_method(name)
        except RuntimeError as error:
            raise self._unloadable(name, error) from error
        if loaded is None:
            raise self._unloadable(name, None)
        self._methods[name] = loaded
        return loaded

    def _unloadable(self, name: str, error: Exception | None) -> ArtifactError:
        there = set(self._runtime.backend_registry.registered_backend_names)
        needed = {each.backend for each in inspect_pte(self._content).delegates}
        missing = ", ".join(sorted(needed - there))
        why = f": {_first_line(error)}" if error is not None else ""
        return ArtifactError(
            f"the runtime cannot load the method {name!r}{why}",
            hint=f"it has no backend {missing}" if missing else "the file may be damaged",
            stage="run_pte",
        )


def inspect_pte(program: bytes) -> PteListing:
    """Return what a program of ExecuTorch holds, without running it.

    Raises:
        UsageError: ExecuTorch is not installed.
        ArtifactError: The program is damaged.
    """
    require("inspect_pte")
    check_pte(program)
    from executorch.exir._serialize._program import deserialize_pte_binary

    try:
        file = deserialize_pte_binary(program)
        plans = file.program.execution_plan
        inline = file.program.backend_delegate_data
        operators: Counter[str] = Counter()
        for plan in plans:
            for chain in plan.chains:
                for instruction in chain.instructions:
                    index = getattr(instruction.instr_args, "op_index", None)
                    if index is not None:
                        found = plan.operators[index]
                        operators[f"{found.name}.{found.overload or 'default'}"] += 1
        stored = file.named_data
        return PteListing(
            size=len(program),
            methods=tuple(plan.name for plan in plans),
            delegates=tuple(
                PteDelegate(each.id, len(inline[each.processed.index].data))
                for plan in plans
                for each in plan.delegates
            ),
            operators=dict(operators),
            named_data={
                key: len(stored.buffers[entry.buffer_index])
                for key, entry in (stored.pte_data if stored else {}).items()
            },
        )
    except Exception as error:
        raise _unreadable(_first_line(error)) from error


def check_pte(program: bytes) -> None:
    """Refuse what is no whole program of ExecuTorch, by its header alone.

    Raises:
        ArtifactError: It is none.
    """
    if not isinstance(program, bytes | bytearray):
        raise _unreadable(f"it is a {type(program).__name__}, not bytes")
    if len(program) < 64 or program[4:8] not in _MAGIC:
        raise _unreadable("it is no program of ExecuTorch")
    if program[8:12] == _HEADER:
        numbers = [int.from_bytes(program[at : at + 8], "little") for at in (16, 24, 32)]
        flatbuffer, segments, size = numbers
        length = int.from_bytes(program[12:16], "little")
        expected = max(flatbuffer, segments + size if length >= 32 else segments)
        if len(program) < expected:
            raise _unreadable(f"it has {len(program)} bytes of {expected}")


def _check_inputs(metadata: Any, inputs: Sequence[Any]) -> None:
    count = metadata.num_inputs()
    if len(inputs) != count:
        raise InputError(
            f"the program takes {count} inputs, but was given {len(inputs)}", stage="run_pte"
        )
    for index, value in enumerate(inputs):
        try:
            expected = metadata.input_tensor_meta(index)
        except (RuntimeError, IndexError, ValueError):
            continue  # It is no tensor.
        if not isinstance(value, Tensor):
            raise InputError(
                f"input {index} is a {type(value).__name__}, not a tensor", stage="run_pte"
            )
        sizes = tuple(expected.sizes())
        is_type = _DTYPES.get(int(expected.dtype()), value.dtype) == value.dtype
        # Sizes of an input that may be of several are the greatest ones.
        fits = value.dim() == len(sizes) and all(map(int.__le__, value.shape, sizes))
        if not (is_type and fits):
            kind = str(_DTYPES.get(int(expected.dtype()), "")).removeprefix("torch.")
            found = str(value.dtype).removeprefix("torch.")
            raise InputError(
                f"input {index} is {found}{list(value.shape)}, but the program takes at most "
                f"{kind}{list(sizes)}",
                hint="pass inputs of the sizes that it was captured for",
                stage="run_pte",
            )


_DTYPES = {
    0: torch.uint8,
    1: torch.int8,
    2: torch.int16,
    3: torch.int32,
    4: torch.int64,
    5: torch.float16,
    6: torch.float32,
    7: torch.float64,
    11: torch.bool,
    15: torch.bfloat16,
}
"""ExecuTorch's numbers of data types."""


def _first_line(error: Exception | None) -> str:
    return str(error).strip().partition("\n")[0]


def _unreadable(why: str) -> ArtifactError:
    return ArtifactError(
        f"cannot read the program of ExecuTorch: {why}",
        hint="the file is damaged or incomplete; write it again",
        stage="run_pte",
    )
