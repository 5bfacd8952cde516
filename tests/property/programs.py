"""Random programs as data, and how they become Python functions.

A program is a list of instructions. An instruction names a template, such as
`{x}.transpose({dim}, {dim})`, and holds numbers that decide what fills its fields: 0 is the latest
value, the first dimension and so on, so that a smaller program is a simpler one. The assembler runs
each line as it writes it and leaves out those that torch refuses; what remains is a function that
works. ::

    Recipe ── assemble ──> Program: source, function, example inputs, other inputs
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fillers import Filler, Unfit
from sized import SIZED
from templates import CONSTANT, PLAIN, Vocabulary
from torch import Tensor

LARGEST = 512
"""Number of elements up to which a value may grow."""

VOCABULARIES = {"plain": PLAIN, "sizes": SIZED}
"""What recipes can be about, by name."""

_NAME = re.compile(r"\b[vn]\d+\b")
NOT_COMPUTED = (
    (
        re.compile(r" = torch\.empty(_like)?\([^=\n]*\)\n|resize"),
        "it reads what nothing has written",
    ),
    (
        re.compile(
            r"(?=.*\b(shape|size|stride|storage|numel|nbytes|len)\b).*(squeeze|t|axes)_\(",
            re.DOTALL,
        ),
        "a size is read where it is used, after the tensor has got another one",
    ),
    (re.compile(r"symbolic_shapes"), "what is not known of symbols is answered without a guard"),
    (re.compile(r"default_dtype"), "a graph does not hold the default type"),
    (re.compile(r"manual_seed"), "a graph does not hold seeds"),
    (re.compile(r"detach_\("), "a graph does not hold whether views can be detached"),
    (re.compile(r"\.data = "), "a graph does not hold that data is exchanged"),
    (
        re.compile(r"autocast.*inference|inference.*autocast", re.DOTALL),
        "autocast is lost in inference",
    ),
)
"""Why a graph, torch's as well, may compute something else than the program, by what is in it."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line, or a block of lines.

    Attributes:
        template: A template's position.
        numbers: What fills its fields, one after the other.
        body: The lines of a block.
    """

    template: int
    numbers: tuple[int, ...] = ()
    body: tuple[Instruction, ...] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a program is made of.

    Attributes:
        inputs: The kinds of its inputs.
        instructions: Its lines.
        table: Name of the decomposition table to capture it with.
        vocabulary: Name of what its numbers stand for.
        sizes: What the inputs' sizes are made of, in a vocabulary that names them.
    """

    inputs: tuple[int, ...]
    instructions: tuple[Instruction, ...]
    table: str = "none"
    vocabulary: str = "plain"
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Program:
    """A program that runs.

    Attributes:
        source: Its text.
        function: It as a function of tensors, which returns every value it made.
        inputs: Tensors, and numbers, that it runs on.
        others: Other tensors of the same kind.
        resized: Other inputs of the same kinds in other sizes.
        not_computed: Why its graph may compute something else; empty if it must not.
    """

    source: str
    function: Callable[..., Any]
    inputs: tuple[Any, ...]
    others: tuple[Any, ...]
    resized: tuple[tuple[Any, ...], ...]
    not_computed: str


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Change torch's default type for a while."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Ask torch for deterministic algorithms for a while."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


NAMES: dict[str, Any] = {
    "default_dtype": default_dtype,
    "deterministic": deterministic,
    "functional": torch.nn.functional,
    "inf": math.inf,
    "nan": math.nan,
    "torch": torch,
}
"""What the text of a program may refer to."""


def assemble(recipe: Recipe, resized: Sequence[tuple[int, ...]] = ()) -> Program:
    """Return the program that a recipe makes, with inputs of its sizes and of others."""
    vocabulary = VOCABULARIES[recipe.vocabulary]
    assembler = Assembler(_inputs(recipe, recipe.sizes, 1), vocabulary)
    for instruction in recipe.instructions:
        assembler.add(instruction)
    source = assembler.source()
    namespace = {**NAMES, **vocabulary.names}
    exec(compile(source, "<program>", "exec"), namespace)
    return Program(
        source,
        namespace["program"],
        _inputs(recipe, recipe.sizes, 1),
        _inputs(recipe, recipe.sizes, 2),
        tuple(_inputs(recipe, sizes, 3 + index) for index, sizes in enumerate(resized)),
        _not_computed(source),
    )


class Assembler:
    """Writes a program and runs it at the same time.

    Attributes:
        lines: The text so far.
    """

    def __init__(self, inputs: Sequence[Any], vocabulary: Vocabulary) -> None:
        self.lines: list[str] = []
        self._vocabulary = vocabulary
        self._namespace: dict[str, Any] = {**NAMES, **vocabulary.names}
        self._values: list[str] = []
        self._constants: set[str] = set()
        self._expressions: list[str] = []
        self._indent = 1
        self._count = 0
        self._arguments = [self._bind(value) for value in inputs]

    def source(self) -> str:
        """Return the whole text."""
        results = ", ".join([*self._values, *sorted(self._numbers())])
        body = [*self.lines, f"    return ({results},)"]
        return "\n".join([f"def program({', '.join(self._arguments)}):", *body, ""])

    def add(self, instruction: Instruction) -> None:
        """Add a line, or a block of lines, unless torch refuses it."""
        with contextlib.suppress(Unfit):
            if instruction.body:
                self._add_block(instruction)
            else:
                self._add_line(instruction)

    def _add_line(self, instruction: Instruction) -> None:
        expressions, statements = self._vocabulary.expressions, self._vocabulary.statements
        position = instruction.template % self._vocabulary.lines
        filler = self._filler(instruction)
        if position == 0:
            self._add_expression(self._again(filler))
        elif position <= len(expressions):
            template = expressions[position - 1]
            self._add_expression(filler.fill(template), template in CONSTANT)
        else:
            self._add_statement(filler.fill(statements[position - len(expressions) - 1]))

    def _filler(self, instruction: Instruction) -> Filler:
        return Filler(
            instruction.numbers,
            self._tensors(),
            self._constants,
            {name: self._namespace[name] for name in self._numbers()},
        )

    def _add_expression(self, expression: str, constant: bool = False) -> None:
        operands = set(_NAME.findall(expression))
        known = constant or (bool(operands) and operands <= self._constants)
        try:
            result = eval(expression, self._namespace)
        except Exception:  # noqa: BLE001
            return
        items = list(result) if isinstance(result, (list, tuple)) else [result]
        fits = [item for item in items if _is_small(item)][:3]
        if not fits or len(fits) < min(len(items), 3):
            return
        names = [self._bind(item) for item in fits]
        target = ", ".join([*names, *(["*_"] if len(items) > 3 else [])])
        if isinstance(result, (list, tuple)) and len(items) == 1:
            target = f"({target},)"
        self._write(f"{target} = {expression}")
        self._expressions.append(expression)
        if not known:
            self._forget(operands)
        elif all(isinstance(item, Tensor) and item.numel() == 1 for item in items):
            self._constants.update(names)

    def _again(self, filler: Filler) -> str:
        """Return an earlier expression with operands replaced by others of the same kind."""
        if not self._expressions:
            raise Unfit
        expression = filler.choose(self._expressions[::-1])
        replaced: dict[str, str] = {}
        for name in _NAME.findall(expression):
            if name not in replaced:
                replaced[name] = self._same_kind(name, filler)
        return _NAME.sub(lambda match: replaced[match.group()], expression)

    def _same_kind(self, name: str, filler: Filler) -> str:
        value = self._namespace[name]
        if not isinstance(value, Tensor):
            return name
        tensors = self._tensors()
        alike = [other for other in tensors if _kind(tensors[other]) == _kind(value)]
        return filler.choose(alike or [name])

    def _add_block(self, instruction: Instruction) -> None:
        blocks = self._vocabulary.blocks
        header = self._filler(instruction).fill(blocks[instruction.template % len(blocks)])
        if header.startswith("for"):
            self._add_loop(header, instruction)
            return
        if header.startswith("if "):
            self._add_branch(header.removeprefix("if "), instruction)
            return
        start = len(self.lines)
        self._write(f"with {header}:")
        with eval(header, self._namespace):
            self._add_body(instruction)
        if len(self.lines) == start + 1:
            self.lines.pop()

    def _add_loop(self, header: str, instruction: Instruction) -> None:
        start = len(self.lines)
        self._write(f"{header}:")
        self._add_body(instruction)
        body = [line[4 * self._indent + 4 :] for line in self.lines[start + 1 :]]
        if not body:
            self.lines.pop()
            return
        try:
            exec("\n".join(body), self._namespace)
        except Exception:  # noqa: BLE001
            self.lines[start] = f"{'    ' * self._indent}if True:"

    def _add_branch(self, condition: str, instruction: Instruction) -> None:
        """Add the way that the program takes; to take the other one is an error."""
        try:
            taken = bool(eval(condition, self._namespace))
        except Exception:  # noqa: BLE001
            return
        self._write(f"if {condition}:" if taken else f"if not ({condition}):")
        self._add_body(instruction)
        self._write("    pass")
        self._write("else:")
        self._write(f"    raise Elsewhere({condition!r})")

    def _add_body(self, instruction: Instruction) -> None:
        self._indent += 1
        for inner in instruction.body:
            self.add(inner)
        self._indent -= 1

    def _add_statement(self, statement: str) -> None:
        try:
            exec(statement, self._namespace)
        except Exception:  # noqa: BLE001
            return
        self._write(statement)
        self._forget(set(_NAME.findall(statement)))

    def _write(self, line: str) -> None:
        self.lines.append("    " * self._indent + line)

    def _bind(self, value: Any) -> str:
        prefix = "v" if isinstance(value, Tensor) else "n"
        name = f"{prefix}{self._count}"
        self._count += 1
        self._namespace[name] = value
        if prefix == "v":
            self._values.append(name)
        return name

    def _forget(self, operands: set[str]) -> None:
        """No longer count on the values of what may have been written to."""
        touched = {_storage(self._namespace[name]) for name in operands if name.startswith("v")}
        self._constants -= {
            name for name in self._constants if _storage(self._namespace[name]) in touched
        }

    def _tensors(self) -> dict[str, Tensor]:
        return {name: self._namespace[name] for name in reversed(self._values)}

    def _numbers(self) -> list[str]:
        return [name for name in self._namespace if re.fullmatch(r"n\d+", name)]


def _inputs(recipe: Recipe, sizes: Sequence[int], seed: int) -> tuple[Any, ...]:
    torch.manual_seed(seed)
    kinds = VOCABULARIES[recipe.vocabulary].inputs
    namespace = {**NAMES, **dict(zip("abc", sizes, strict=False))}
    values: list[Any] = []
    for kind in recipe.inputs:
        tensors = [value for value in values if isinstance(value, Tensor)]
        namespace["latest"] = tensors[-1].detach() if tensors else torch.randn(2, 3)
        values.append(eval(kinds[kind % len(kinds)], namespace))
    return tuple(values)


def _not_computed(source: str) -> str:
    return next((reason for mark, reason in NOT_COMPUTED if mark.search(source)), "")


def _is_small(value: Any) -> bool:
    if isinstance(value, Tensor):
        return type(value) is Tensor and value.numel() <= LARGEST and value.layout is torch.strided
    return isinstance(value, (bool, int, float))


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
