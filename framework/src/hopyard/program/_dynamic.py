"""From `dynamic_shapes`, as `torch.export` takes it, to inputs with symbols for sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]
from torch import SymInt, Tensor
from torch.export import Dim

from hopyard_hookspecs import SourceLocation

from .._torch.exporting import DerivedDim, DimDynamic, StatelessSymbolicContext
from .._torch.fake import FakeTensorMode
from .._torch.pytree import tree_flatten
from .._torch.symbolic import ShapeEnv, input_source
from ..errors import UnsupportedError, UsageError
from ..tracing import current_location
from ._calling import InputLeaf, TensorType, positional_names
from ._sizes import Range, Symbols

_STATIC = (None, Dim.STATIC)


@dataclass(frozen=True)
class Dimension:
    """A dimension of an input that may differ from call to call.

    Attributes:
        name: How to call it.
        asked: A `Dim`, or one of `Dim.AUTO` and `Dim.DYNAMIC`.
        size: What it is in the example.
        number: The size as the capture sees it.
    """

    name: str
    asked: Any
    size: int
    number: SymInt | int

    @property
    def may_be_fixed(self) -> bool:
        """Whether the user leaves it to the capture whether the size is fixed."""
        return not isinstance(self.asked, Dim) and self.asked.type == Dim.AUTO.type

    @property
    def limits(self) -> tuple[int, int | None]:
        """The least and the greatest size that the user asks for."""
        least, greatest = self.asked.min, self.asked.max
        return int(least or 0), int(greatest) if isinstance(greatest, int) else None


def dimensions_asked(
    dynamic_shapes: Any,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> list[dict[int, Any]]:
    """Return for each leaf of the inputs what is asked of its dimensions.

    Raises:
        UsageError: `dynamic_shapes` does not fit the inputs.
    """
    names = positional_names(function, len(args))
    given = dict(zip(names, args, strict=True)) | dict(kwargs)
    if isinstance(dynamic_shapes, (tuple, list)):
        if len(dynamic_shapes) != len(given):
            raise _misfit("the inputs", f"{len(given)} entries", dynamic_shapes)
        dynamic_shapes = dict(zip(given, dynamic_shapes, strict=True))
    if not isinstance(dynamic_shapes, Mapping):
        raise _misfit("the inputs", "a dictionary by names of parameters", dynamic_shapes)
    asked = dict(dynamic_shapes)
    rest = {name.partition("[")[0] for name in names if "[" in name}
    for name in rest & asked.keys():
        asked.update({f"{name}[{i}]": each for i, each in enumerate(asked.pop(name) or ())})
    unknown = asked.keys() - given.keys()
    if unknown:
        raise _misfit("the inputs", f"entries for {', '.join(given)}", sorted(unknown))
    found: list[dict[int, Any]] = []
    for name, value in given.items():
        found.extend(_of_leaves(name, value, asked.get(name)))
    return found


def _of_leaves(path: str, value: Any, asked: Any) -> Iterator[dict[int, Any]]:
    children, spec = tree_flatten(value, is_leaf=lambda each: each is not value)
    if spec.is_leaf():
        yield _of_tensor(path, value, asked) if asked is not None else {}
        return
    keys = list(value) if isinstance(value, Mapping) else list(range(len(children)))
    if asked is None:
        parts: Any = dict.fromkeys(keys)
    elif isinstance(asked, Mapping):
        parts = asked
    else:
        parts = dict(enumerate(asked))
    if set(parts) != set(keys):
        raise _misfit(path, f"entries for {', '.join(map(str, keys))}", asked)
    for key, child in zip(keys, children, strict=True):
        yield from _of_leaves(f"{path}[{key!r}]", child, parts[key])


def _of_tensor(path: str, value: Any, asked: Any) -> dict[int, Any]:
    if not isinstance(value, Tensor):
        raise _misfit(path, "None, since it is no tensor", asked)
    if isinstance(asked, (tuple, list)):
        if len(asked) != value.dim():
            raise _misfit(path, f"an entry for each of {value.dim()} dimensions", asked)
        asked = dict(enumerate(asked))
    if not isinstance(asked, Mapping):
        raise _misfit(path, "a dictionary by dimension, or a sequence", asked)
    result = {}
    for index, dimension in asked.items():
        if not isinstance(index, int) or not -value.dim() <= index < value.dim():
            raise _misfit(path, f"dimensions up to {value.dim() - 1}", asked)
        is_static = dimension in _STATIC or isinstance(dimension, int)
        if isinstance(dimension, int) and dimension != value.shape[index]:
            raise _misfit(path, f"size {value.shape[index]} in dimension {index}", dimension)
        if not is_static and not isinstance(dimension, (Dim, type(Dim.AUTO))):
            raise _misfit(path, "Dim(...), Dim.AUTO, Dim.DYNAMIC or Dim.STATIC", dimension)
        if not is_static and dimension != Dim.STATIC:
            result[index % value.dim()] = dimension
    return result


def _misfit(path: str, wanted: str, given: Any) -> UsageError:
    return UsageError(
        f"dynamic_shapes gives {given!r} for {path}, where it must give {wanted}",
        hint='write it as torch.export takes it, for example {"x": {0: torch.export.Dim("batch")}}',
        stage="capture",
    )


class DynamicInputs:
    """Inputs with symbols for the sizes that may differ.

    Args:
        leaves: The inputs.
        asked: What is asked of their dimensions.
        fake_mode: A mode with a shape environment.
    """

    def __init__(
        self,
        leaves: Sequence[InputLeaf],
        asked: Sequence[Mapping[int, Any]],
        fake_mode: FakeTensorMode,
    ) -> None:
        self._leaves = leaves
        self._asked = asked
        self._fake_mode = fake_mode
        self._shape_env: ShapeEnv = fake_mode.shape_env  # type: ignore[assignment]
        self._dimensions: list[Dimension] = []
        self._decided_at: dict[sympy.Basic, SourceLocation | None] = {}

    def made(self, values: Sequence[Any]) -> list[Any]:
        """Return `values` with those that have dynamic dimensions made fake.

        Raises:
            UsageError: Dimensions of one name differ, or one is out of its range.
        """
        together = zip(self._leaves, self._asked, values, strict=True)
        result = [
            self._fake(leaf, asked, value) if asked else value for leaf, asked, value in together
        ]
        self._relate()
        return result

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Note which lines of the user's decide by a size while the block runs."""
        if not self._dimensions:
            yield
            return
        shape_env = self._shape_env
        evaluate = shape_env.evaluate_sym_node
        around = vars(shape_env).get("evaluate_sym_node")  # that of a capture around this one

        def noting(*args: Any, **kwargs: Any) -> Any:
            count = len(shape_env.guards)
            result = evaluate(*args, **kwargs)
            for guard in shape_env.guards[count:]:
                self._decided_at.setdefault(guard.expr, current_location())
            return result

        from .._torch.compiler import reports_without_guards

        vars(shape_env)["evaluate_sym_node"] = noting
        try:
            with reports_without_guards(shape_env):
                yield
        finally:
            del vars(shape_env)["evaluate_sym_node"]
            if around is not None:
                vars(shape_env)["evaluate_sym_node"] = around

    def leaves(self, made: Sequence[Any]) -> tuple[InputLeaf, ...]:
        """Return the inputs with the sizes that they have for the graph."""
        return tuple(
            dataclasses.replace(leaf, expected=TensorType.of(value)) if asked else leaf
            for leaf, asked, value in zip(self._leaves, self._asked, made, strict=True)
        )

    def symbols(self) -> Symbols:
        """Return what must hold of the symbols, now that the capture has ended.

        Raises:
            UnsupportedError: The capture fixed a size that was to be dynamic.
        """
        if not self._dimensions:
            return Symbols()
        for dimension in self._dimensions:
            if not dimension.may_be_fixed:
                self._refuse_fixed(dimension)
        self._refuse_narrowed()
        free = {symbol for each in self._dimensions for symbol in self._now(each).free_symbols}
        ranges = tuple(self._range(symbol) for symbol in sorted(free, key=str))
        conditions = dict.fromkeys(
            self._shape_env.replace(guard.expr) for guard in self._shape_env.guards
        )
        return Symbols(
            ranges,
            tuple(
                condition
                for condition in conditions
                if condition.free_symbols and condition.free_symbols <= free
            ),
        )

    def _fake(self, leaf: InputLeaf, asked: Mapping[int, Any], value: Tensor) -> Tensor:
        sizes = [
            DimDynamic.DYNAMIC if index in asked else DimDynamic.STATIC
            for index in range(value.dim())
        ]
        made: Tensor = self._fake_mode.from_tensor(
            value.detach().requires_grad_(value.requires_grad),
            source=input_source(leaf.source),
            symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes),
        )
        for index, dimension in asked.items():
            name = f"dimension {index} of {leaf.path}"
            found = Dimension(name, dimension, int(value.shape[index]), made.shape[index])
            self._check_example(found)
            self._dimensions.append(found)
        return made

    def _check_example(self, dimension: Dimension) -> None:
        least, greatest = dimension.limits
        if dimension.size not in Range(sympy.Symbol("size"), least, greatest):
            raise UsageError(
                f"{dimension.name} is {dimension.size} in the example, "
                f"but {dimension.asked!r} is asked for",
                hint="give an example within the range",
                stage="capture",
            )
        if isinstance(dimension.number, SymInt):
            symbol = dimension.number.node.expr
            if not isinstance(dimension.asked, DerivedDim):
                self._shape_env.constrain_symbol_range(
                    symbol,
                    compiler_min=max(least, 2),
                    compiler_max=sympy.oo if greatest is None else greatest,
                )
        elif not dimension.may_be_fixed:
            raise UsageError(
                f"{dimension.name} is {dimension.size} in the example, "
                "which cannot stand for other sizes",
                hint="give an example of size 2 or more",
                stage="capture",
            )

    def _relate(self) -> None:
        """Make dimensions of one name equal, and derived ones what they are derived from."""
        roots: dict[str, SymInt | int] = {}
        named = [each for each in self._dimensions if isinstance(each.asked, Dim)]
        for dimension in sorted(named, key=lambda each: isinstance(each.asked, DerivedDim)):
            dim: Any = dimension.asked
            is_derived = isinstance(dim, DerivedDim)
            root = dim.root if is_derived else dim
            if root.__name__ not in roots:
                number = self._root(dimension) if is_derived else dimension.number
                roots[root.__name__] = number
            known = roots[root.__name__]
            wanted = dim.fn(known) if is_derived else known
            if not bool(dimension.number == wanted):
                raise UsageError(
                    f"{dimension.name} is {dimension.size} in the example, but another dimension "
                    f"makes {dim.__name__} {wanted}",
                    hint="give inputs whose sizes go together",
                    stage="capture",
                )

    def _root(self, dimension: Dimension) -> SymInt | int:
        """Return a symbol for what only a derived dimension speaks of."""
        dim: Any = dimension.asked
        start = dim.fn(0)
        step = dim.fn(1) - start
        size, rest = divmod(dimension.size - start, step)
        if rest:
            raise UsageError(
                f"{dimension.name} is {dimension.size} in the example, "
                f"which is no value of {dim.__name__}",
                hint="give an example of another size",
                stage="capture",
            )
        source = input_source(dim.root.__name__)
        expression = self._shape_env.create_symbol(
            size, source, dynamic_dim=DimDynamic.DYNAMIC, constraint_dim=None
        )
        greatest = dim.root.max if isinstance(dim.root.max, int) else sympy.oo
        self._shape_env.constrain_symbol_range(
            expression, compiler_min=max(dim.root.min, 2), compiler_max=greatest
        )
        return self._shape_env.create_symintnode(expression, hint=size, source=source)

    def _now(self, dimension: Dimension) -> sympy.Basic:
        if not isinstance(dimension.number, SymInt):
            return sympy.Integer(dimension.number)
        return self._shape_env.replace(dimension.number.node._expr)

    def _range(self, symbol: sympy.Symbol) -> Range:
        known = self._shape_env.var_to_range[symbol]
        asked = [each.limits[0] for each in self._dimensions if self._now(each) == symbol]
        # A capture takes every size for 2 or more; a graph that did not ask is right for others.
        least = max(asked, default=0) if known.lower <= 2 else int(known.lower)
        return Range(symbol, least, int(known.upper) if known.upper.is_Integer else None)

    def _refuse_fixed(self, dimension: Dimension) -> None:
        fixed = self._now(dimension)
        if fixed.free_symbols:
            return
        raise self._refusal(
            dimension,
            f"was to be dynamic, but the program only works for {fixed}",
            "make the program independent of this size, or ask for Dim.STATIC or Dim.AUTO",
        )

    def _refuse_narrowed(self) -> None:
        """Refuse sizes of a name that are not as many, or not as free of others, as was asked."""
        by_size: dict[sympy.Basic, Dimension] = {}
        for dimension in self._dimensions:
            if not isinstance(dimension.asked, Dim) or isinstance(dimension.asked, DerivedDim):
                continue
            size = self._now(dimension)
            other = by_size.setdefault(size, dimension)
            name, other_name = dimension.asked.__name__, other.asked.__name__
            if name != other_name:
                raise self._refusal(
                    dimension,
                    f"was to be {name}, but the program only works if it is {other_name}",
                    "use one Dim for both, or ask for Dim.AUTO",
                )
            known = self._shape_env.var_to_range.get(size)
            if known is None:
                continue
            least, greatest = dimension.limits
            is_lower = known.upper.is_Integer and (greatest is None or known.upper < greatest)
            if is_lower or known.lower > max(least, 2):
                bounds = f"{known.lower} <= {name}" + (f" <= {known.upper}" if is_lower else "")
                raise self._refusal(
                    dimension,
                    f"was to be {name}, but the program only works for {bounds}",
                    "give the Dim this range, or ask for Dim.AUTO",
                    is_alone=True,
                )

    def _refusal(
        self, dimension: Dimension, problem: str, hint: str, *, is_alone: bool = False
    ) -> UnsupportedError:
        """Return an error that tells by which line the capture decided.

        Args:
            dimension: Of which the error speaks.
            problem: What is wrong with it.
            hint: What to do.
            is_alone: Whether no other dimension has a part in it.
        """
        symbol = dimension.number.node._expr if isinstance(dimension.number, SymInt) else None
        guards = [each for each in self._shape_env.guards if symbol in each.expr.free_symbols]
        if is_alone:
            guards = [each for each in guards if len(each.expr.free_symbols) == 1] or guards
        cause = guards[-1] if guards else None
        return UnsupportedError(
            f"{dimension.name} {problem}" + (f": it decides by {cause.expr}" if cause else ""),
            hint=hint,
            stage="capture",
            location=self._decided_at.get(cause.expr) if cause else None,
        )
