"""Random programs with higher-order operators in them: closures, regions in regions, writes, views.

A program is made of statements that a seed decides, and is run by interpreting them, with an
operator or with what the operator means. All its tensors are square and of one size.
"""

from __future__ import annotations

import functools
from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from hopyard.hops import bind
from hopyard_hookspecs import Hop

Scope = ChainMap[str, Any]


def scaled(body: Callable[..., Any], *operands: Any, factor: float = 1.5) -> Any:
    """Run the body and scale what it returns, whatever it is in."""
    return pytree.tree_map_only(Tensor, lambda each: each * factor, body(*operands))


OPERATORS = {
    "plain": bind(Hop("hop_sweep__plain")),
    "scaled": bind(Hop("hop_sweep__scaled", eager=scaled)),
    "writing": bind(Hop("hop_sweep__writing", writes=True)),
}
"""One that runs its body, one that does more, and one whose bodies may write."""

UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "sin": torch.sin,
    "tanh": torch.tanh,
    "neg": torch.neg,
    "clone": torch.clone,
    "detach": torch.detach,
    "double": lambda x: x * 2,
    "turned": torch.t,
    "flat": lambda x: x.reshape(-1).view(x.shape),
    "row": lambda x: x[0].expand_as(x),
    "sum": lambda x: x.sum(0, keepdim=True) + torch.zeros_like(x),
    "counted": lambda x: x * x.shape[0],
    "chunk": lambda x: torch.cat(x.chunk(2, 1), 1),
    "constant": lambda x: x + torch.ones(x.shape[1]),
    "without gradient": lambda x: _without_gradient(x),
    "autocast": lambda x: _under_autocast(x),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "mul": torch.mul,
    "sub": torch.sub,
    "maximum": torch.maximum,
    "matmul": lambda x, y: (x @ y) / 4,
    "weighted": torch.mul,
}
WRITES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "add_": lambda x, y: x.add_(y),
    "mul_": lambda x, y: x.mul_(y.sigmoid()),
    "copy_": lambda x, y: x.copy_(y),
    "row": lambda x, y: x[0].add_(y[1]),
    "tanh_": lambda x, y: x.tanh_(),
}
KINDS = ("function", "partial", "method", "module", "object")


def _without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x.sigmoid()


def _under_autocast(x: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return (x @ x).float() / 4


@dataclass(frozen=True)
class Computed:
    """`target = operation(operands)`."""

    target: str
    operation: str
    operands: tuple[str, ...]

    def run(self, scope: Scope, call: Callable[..., Any]) -> None:
        functions: Any = UNARY if len(self.operands) == 1 else BINARY
        scope[self.target] = functions[self.operation](*(scope[each] for each in self.operands))

    def lines(self) -> Iterator[str]:
        yield f"{self.target} = {self.operation}({', '.join(self.operands)})"


@dataclass(frozen=True)
class Written:
    """`operation(target, operand)`, in place."""

    target: str
    operation: str
    operand: str

    def run(self, scope: Scope, call: Callable[..., Any]) -> None:
        WRITES[self.operation](scope[self.target], scope[self.operand])

    def lines(self) -> Iterator[str]:
        yield f"write {self.operation}({self.target}, {self.operand})"


@dataclass(frozen=True)
class Block:
    """Statements and what they return: names of tensors, and constants, in containers."""

    statements: tuple[Any, ...]
    result: Any

    def run(self, scope: Scope, call: Callable[..., Any]) -> Any:
        for statement in self.statements:
            statement.run(scope, call)
        return pytree.tree_map(
            lambda leaf: scope[leaf[1:]] if _is_name(leaf) else leaf, self.result
        )

    def lines(self) -> Iterator[str]:
        for statement in self.statements:
            yield from statement.lines()
        yield f"return {self.result}"


@dataclass(frozen=True)
class Called:
    """`targets = operator(body, *operands)`."""

    targets: tuple[str, ...]
    operator: str
    kind: str
    parameters: tuple[str, ...]
    operands: tuple[str, ...]
    body: Block

    def run(self, scope: Scope, call: Callable[..., Any]) -> None:
        def run(*operands: Any) -> Any:
            given = dict(zip(self.parameters, operands, strict=True))
            return self.body.run(scope.new_child(given), call)

        operands = [scope[each] for each in self.operands]
        result = call(self.operator, _as_kind(self.kind, run, operands), *_rest(self, operands))
        tensors = [each for each in pytree.tree_leaves(result) if _is_tensor(each)]
        # A program that was made smaller may return less.
        scope.update(zip(self.targets, tensors, strict=False))

    def lines(self) -> Iterator[str]:
        targets = ", ".join(self.targets)
        yield f"{targets} = {self.operator}({self.kind} of {self.parameters}, {self.operands}):"
        yield from (f"    {line}" for line in self.body.lines())


def _rest(called: Called, operands: list[Any]) -> list[Any]:
    return operands[1:] if called.kind == "partial" else operands


def _as_kind(kind: str, run: Callable[..., Any], operands: Sequence[Any]) -> Callable[..., Any]:
    if kind == "partial" and operands:
        return functools.partial(run, operands[0])
    if kind == "method":
        return _Holder(run).method
    if kind == "object":
        return _Holder(run)
    return _Module(run) if kind == "module" else run


class _Holder:
    def __init__(self, run: Callable[..., Any]) -> None:
        self.run = run

    def method(self, *operands: Any) -> Any:
        return self.run(*operands)

    __call__ = method


class _Module(nn.Module):
    def __init__(self, run: Callable[..., Any]) -> None:
        super().__init__()
        self.run = [run]

    def forward(self, *operands: Any) -> Any:
        return self.run[0](*operands)


class Program(nn.Module):
    """A program of two tensors and a parameter of one element.

    Args:
        block: What it does.
        meaning: Whether it calls what the operators mean instead of the operators.
    """

    def __init__(self, block: Block, *, meaning: bool = False) -> None:
        super().__init__()
        self.block = block
        self.weight = nn.Parameter(torch.tensor([1.25]))
        self.meaning = meaning

    def forward(self, x: Tensor, y: Tensor) -> Any:
        return self.block.run(ChainMap({"x": x, "y": y, "weight": self.weight}), self._call)

    def _call(self, operator: str, body: Callable[..., Any], *operands: Any) -> Any:
        if self.meaning:
            return OPERATORS[operator].definition.eager(body, *operands)
        return OPERATORS[operator](body, *operands)

    def __str__(self) -> str:
        return "\n".join(self.block.lines())


def made(seed: int) -> Block:
    """Return the program that a seed decides."""
    return _Maker(Random(seed)).block(["x", "y"], [], depth=0)


def smaller(block: Block) -> Iterator[Block]:
    """Yield programs that do less; some of them do not work."""
    for index, statement in enumerate(block.statements):
        before, after = block.statements[:index], block.statements[index + 1 :]
        yield replace(block, statements=(*before, *after))
        if isinstance(statement, Called):
            for body in smaller(statement.body):
                yield replace(block, statements=(*before, replace(statement, body=body), *after))
            for simpler in _simpler(statement):
                yield replace(block, statements=(*before, simpler, *after))
        elif isinstance(statement, Computed) and statement.operation != "add":
            plain = Computed(statement.target, "add", (statement.operands[0],) * 2)
            yield replace(block, statements=(*before, plain, *after))
    names = [leaf for leaf in pytree.tree_leaves(block.result) if _is_name(leaf)]
    if block.result != (names[0],):
        yield replace(block, result=(names[0],))
    for name in names[1:]:
        yield replace(block, result=(name,))


def _simpler(called: Called) -> Iterator[Called]:
    if called.operator != "plain":
        yield replace(called, operator="plain")
    if called.kind != "function":
        yield replace(called, kind="function")
    for index in range(len(called.operands)):
        operands = (*called.operands[:index], *called.operands[index + 1 :])
        parameters = (*called.parameters[:index], *called.parameters[index + 1 :])
        yield replace(called, operands=operands, parameters=parameters)


class _Maker:
    def __init__(self, random: Random) -> None:
        self._random = random
        self._count = 0

    def block(self, names: Sequence[str], owned: Sequence[str], depth: int) -> Block:
        """Make a block that may use `names`, and write to `owned`."""
        names, owned = list(names), list(owned)
        count = self._random.randint(1, 4)
        statements = [self._statement(names, owned, depth) for _ in range(count)]
        if depth and self._random.random() < 0.7:
            # A region that returns a view or one of its operands is often refused.
            fresh = Computed(self._name(), "mul", (names[-1], self._random.choice(names)))
            statements.append(fresh)
            return Block(tuple(statements), self._result([fresh.target], depth))
        return Block(tuple(statements), self._result(names, depth))

    def _statement(self, names: list[str], owned: list[str], depth: int) -> Any:
        chance = self._random.random()
        if depth < 3 and chance < (0.55 if depth == 0 else 0.3):
            return self._called(names, owned, depth)
        if owned and chance > 0.85:
            write = self._random.choice(list(WRITES))
            return Written(self._random.choice(owned), write, self._random.choice(names))
        arity = self._random.choice((1, 1, 2))
        operation = self._random.choice(list(UNARY if arity == 1 else BINARY))
        operands = tuple(self._random.choice(names) for _ in range(arity))
        if operation == "weighted":
            operands = operands[0], "weight"
        target = self._name()
        if operation in ("clone", "double", "add", "mul"):
            owned.append(target)
        names.append(target)
        return Computed(target, operation, operands)

    def _called(self, names: list[str], owned: list[str], depth: int) -> Called:
        count = self._random.randint(0, 3)
        operands = tuple(self._random.choice(names) for _ in range(count))
        parameters = tuple(self._name() for _ in operands)
        own = [mine for mine, given in zip(parameters, operands, strict=True) if given in owned]
        # Few writes: most of them are refused.
        writable = [*owned, *own] if self._random.random() < 0.2 else []
        body = self.block([*names, *parameters, *parameters], writable, depth + 1)
        leaves = pytree.tree_leaves(body.result)
        targets = tuple(self._name() for leaf in leaves if _is_name(leaf))
        names += targets
        operator = self._random.choice(("plain", "plain", "scaled", "writing"))
        return Called(targets, operator, self._random.choice(KINDS), parameters, operands, body)

    def _result(self, names: Sequence[str], depth: int) -> Any:
        def leaf() -> Any:
            if depth and self._random.random() < 0.15:
                return self._random.choice((None, 3, 2.5, True, "text"))
            if len(names) == 1:
                return self._random.choice((None, 3, 2.5, True, "text"))
            # The last ones depend on most.
            return "$" + self._random.choice(names[-4:] if self._random.random() < 0.8 else names)

        first = "$" + names[-1]
        others = [leaf() for _ in range(self._random.choice((0, 0, 1, 2)))]
        form = self._random.choice(("tensor", "tuple", "tuple", "list", "mapping", "nested"))
        if form == "tensor" or not depth:
            return first if depth else (first, *(each for each in others if _is_name(each)))
        if form == "mapping":
            return {"first": first, **{f"other{i}": each for i, each in enumerate(others)}}
        if form == "nested":
            return [first, {"others": tuple(others)}]
        return [first, *others] if form == "list" else (first, *others)

    def _name(self) -> str:
        self._count += 1
        return f"v{self._count}"


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("$")


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)
