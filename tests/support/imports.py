"""What a module of source code imports and which attributes of imported packages it reaches for."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Use:
    """A dotted name that source code gets at, and how."""

    name: str
    line: int
    typing_only: bool = False
    imported: bool = True


def uses(tree: ast.Module, package: str = "") -> Iterator[Use]:
    """Yield every absolute dotted name that `tree` imports or reads from something it imported.

    Args:
        tree: A module.
        package: The package that the module is in, against which relative imports are resolved.
    """
    typing_only = _typing_only_lines(tree)
    bound: dict[str, str] = {}
    for node in ast.walk(tree):
        for name, target, local in _imports(node, package):
            bound[local] = target
            yield Use(name, node.lineno, node.lineno in typing_only)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and (dotted := _dotted(node, bound)):
            yield Use(dotted, node.lineno, node.lineno in typing_only, imported=False)
        if isinstance(node, ast.Call):
            yield from _reflective(node, bound)


def _imports(node: ast.AST, package: str) -> Iterator[tuple[str, str, str]]:
    """Yield `(name that is imported, name that is bound, local name)` of an import statement."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            top = alias.name.partition(".")[0]
            yield alias.name, alias.name if alias.asname else top, alias.asname or top
    if isinstance(node, ast.ImportFrom):
        module = node.module or ""
        if node.level:
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            module = ".".join([*parents, module] if module else parents)
        for alias in node.names:
            name = f"{module}.{alias.name}"
            yield name, name, alias.asname or alias.name


def _reflective(node: ast.Call, bound: dict[str, str]) -> Iterator[Use]:
    """Yield what `import_module("a.b")`, `__import__("a.b")` and `getattr(a, "b")` get at."""
    function = node.func.attr if isinstance(node.func, ast.Attribute) else _identifier(node.func)
    texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    if function in {"import_module", "__import__", "find_spec"} and texts:
        yield Use(texts[0], node.lineno)
    if (
        function in {"getattr", "setattr", "hasattr"}
        and texts
        and (of := _dotted(node.args[0], bound))
    ):
        yield Use(f"{of}.{texts[0]}", node.lineno, imported=False)


def _dotted(node: ast.AST, bound: dict[str, str]) -> str | None:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    root = bound.get(_identifier(node))
    return ".".join([root, *reversed(parts)]) if root else None


def _identifier(node: ast.AST) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _typing_only_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for statement in node.body:
                lines.update(range(statement.lineno, (statement.end_lineno or 0) + 1))
    return lines
