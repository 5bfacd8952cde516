"""Sizes that differ from call to call: captured, checked, exported and saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._higher_order_ops import map as torch_map
from torch.export import Dim

import hopyard
from hopyard.errors import InputError, UnsupportedError, UsageError
from hopyard.program import Program
from hopyard_hookspecs import hookimpl

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

BATCH = Dim("batch", max=64)
LENGTH = Dim("length", min=3, max=20)


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session(discover=False)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def forward(self, tokens: Tensor, *, extra: dict[str, Tensor]) -> Any:
        self.seen.add_(tokens.shape[0])
        hidden = self.layer(self.embed(tokens) + extra["bias"])
        return {"mean": hidden.mean(1), "pairs": extra["pairs"].view(tokens.shape[0], 2, -1)}


def example(batch: int = 4, length: int = 5) -> tuple[tuple[Tensor], dict[str, Any]]:
    extra = {"bias": torch.randn(length, 8), "pairs": torch.randn(2 * batch, 3)}
    return (torch.randint(0, 10, (batch, length)),), {"extra": extra}


SHAPES: dict[str, Any] = {
    "by name": {
        "tokens": {0: BATCH, 1: LENGTH},
        "extra": {"bias": (LENGTH, None), "pairs": {0: 2 * BATCH}},
    },
    "in order": ((BATCH, LENGTH), {"bias": {0: LENGTH, 1: Dim.STATIC}, "pairs": (2 * BATCH, None)}),
    "automatic": {
        "tokens": (Dim.AUTO, Dim.DYNAMIC),
        "extra": {"bias": [Dim.AUTO, Dim.AUTO], "pairs": [Dim.AUTO, None]},
    },
}


@pytest.mark.parametrize("shapes", SHAPES)
def test_other_sizes_give_what_eager_gives(
    session: hopyard.Session, tmp_path: Path, shapes: str
) -> None:
    model = Encoder().eval()
    args, kwargs = example()
    with torch.no_grad():
        program = session.capture(model, args, kwargs, dynamic_shapes=SHAPES[shapes])
        exported = program.to_exported_program()
        program.save(tmp_path / "it.pt2")
        versions: dict[str, Callable[..., Any]] = {
            "captured": program,
            "loaded": session.load(tmp_path / "it.pt2"),
            "back": session.from_exported_program(exported),
            "exported": exported.module(),
            "decomposed": exported.run_decompositions().module(),
        }
        for batch, length in ((4, 5), (2, 3), (7, 11), (64, 20)):
            args, kwargs = example(batch, length)
            expected = model(*args, **kwargs)
            for version in versions.values():
                torch.testing.assert_close(version(*args, **kwargs), expected)
    for kept in (versions["loaded"], versions["back"]):
        assert kept == program
        assert hash(kept) == hash(program)
        assert isinstance(kept, Program)
        assert kept.guards == program.guards


def test_torch_exports_the_same_ranges(session: hopyard.Session) -> None:
    args, kwargs = example()
    model = Encoder().eval()
    program = session.capture(model, args, kwargs, dynamic_shapes=SHAPES["by name"])
    theirs = torch.export.export(model, args, kwargs, dynamic_shapes=SHAPES["by name"])
    ours = program.to_exported_program().range_constraints
    found = {(int(each.lower), int(each.upper)) for each in ours.values()}
    assert found == {(0, 64), (3, 20)}
    symbols = {
        symbol: each for symbol, each in theirs.range_constraints.items() if symbol.is_Symbol
    }
    assert found == {(int(each.lower), int(each.upper)) for each in symbols.values()}


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "range": (lambda: example(65, 5), r"dimension 0 of tokens is 65.*<= 64"),
    "least": (lambda: example(4, 2), r"dimension 1 of tokens is 2.*3 <= "),
    "equal": (
        lambda: (example(4, 5)[0], example(4, 6)[1]),
        r"dimension 0 of extra\['bias'\] is 6.*= 5, since dimension 1 of tokens is 5",
    ),
    "derived": (
        lambda: (example(4, 5)[0], example(5, 5)[1]),
        r"dimension 0 of extra\['pairs'\] is 10.*= 8, since dimension 0 of tokens is 4",
    ),
    "static": (
        lambda: ((torch.zeros(4, 5, 1),), example(4, 5)[1]),
        r"input tokens was captured as int64\[s\d+, s\d+\]",
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_call_with_sizes_that_do_not_fit_names_the_dimension(
    session: hopyard.Session, wrong: str
) -> None:
    args, kwargs = example()
    model = Encoder().eval()
    program = session.capture(model, args, kwargs, dynamic_shapes=SHAPES["by name"])
    make, message = WRONG[wrong]
    args, kwargs = make()
    with pytest.raises(InputError, match=message):
        program(*args, **kwargs)
    assert model.seen.item() == 0


def test_what_the_capture_decided_by_is_checked_in_each_call(
    session: hopyard.Session, tmp_path: Path
) -> None:
    def function(x: Tensor) -> Tensor:
        return x.view(-1, 2) * (2 if x.shape[0] > 5 else 3)

    program = session.capture(function, (torch.ones(8),), dynamic_shapes={"x": [Dim.DYNAMIC]})
    program.save(tmp_path / "it.pt2")
    for version in (program, session.load(tmp_path / "it.pt2")):
        assert version(torch.ones(6)).tolist() == [[2, 2]] * 3
        for size in (7, 4):
            with pytest.raises(InputError, match=rf"dimension 0 of x is {size}"):
                version(torch.ones(size))


def fixing(x: Tensor) -> Tensor:
    if x.shape[0] == 4:
        return x * 2
    return x


@pytest.mark.parametrize("asked", [Dim("rows"), Dim.DYNAMIC])
def test_a_dimension_that_was_fixed_is_named_with_line_and_cause(
    session: hopyard.Session, asked: Any
) -> None:
    with pytest.raises(
        UnsupportedError, match=r"dimension 0 of x .* only works for 4.*Eq"
    ) as raised:
        session.capture(fixing, (torch.ones(4, 2),), dynamic_shapes={"x": {0: asked}})
    location = raised.value.location
    assert location is not None
    assert location.line == fixing.__code__.co_firstlineno + 1
    assert location.function == "fixing"


def narrowing(x: Tensor, y: Tensor) -> Any:
    if x.shape[0] > 6:
        return x, y
    return x + y


@pytest.mark.parametrize(
    ("shapes", "message", "line"),
    [
        (
            {"x": {0: Dim("rows")}, "y": {0: Dim.AUTO}},
            r"dimension 0 of x was to be rows, .* 2 <= rows <= 6",
            1,
        ),
        (
            {"x": {0: Dim("rows", max=5)}, "y": {0: Dim("others", max=5)}},
            r"dimension 0 of y was to be others, .* if it is rows",
            3,
        ),
    ],
)
def test_a_dimension_that_is_less_free_than_asked_is_named_with_its_line(
    session: hopyard.Session, shapes: Any, message: str, line: int
) -> None:
    given = (torch.ones(4, 2), torch.ones(4, 2))
    with pytest.raises(UnsupportedError, match=message) as raised:
        session.capture(narrowing, given, dynamic_shapes=shapes)
    assert raised.value.location is not None
    assert raised.value.location.line == narrowing.__code__.co_firstlineno + line


def test_a_dimension_that_may_be_fixed_is(session: hopyard.Session) -> None:
    program = session.capture(fixing, (torch.ones(4, 2),), dynamic_shapes=[{0: Dim.AUTO}])
    assert program.guards == ("x: float32[4, 2] on cpu",)
    with pytest.raises(InputError):
        program(torch.ones(5, 2))


def test_a_region_that_was_captured_before_does_not_fix_sizes(session: hopyard.Session) -> None:
    def function(x: Tensor) -> Any:
        return torch_map(lambda row: row * 2, x)

    session.capture(function, (torch.ones(2, 3),))
    program = session.capture(
        function, (torch.ones(2, 3),), dynamic_shapes=[{0: Dim("rows"), 1: Dim("columns")}]
    )
    assert program(torch.ones(5, 4)).tolist() == [[2.0] * 4] * 5


MISFITS: dict[str, Any] = {
    "name": {"y": None},
    "count": [None, None],
    "kind": {"x": 3.0},
    "dimension": {"x": {2: Dim("n")}},
    "length": {"x": [Dim("n")]},
    "word": {"x": {0: "n"}},
    "static size": {"x": {0: 5}},
    "structure": {"x": {0: {1: 2}}},
    "range": {"x": {0: Dim("n", max=3)}},
    "equal": {"x": {0: Dim("n"), 1: Dim("n")}},
    "derived": {"x": {0: Dim("n"), 1: Dim("n") + 1}},
    "no value": {"x": {0: 3 * Dim("n")}},
    "size 1": {"x": {2: Dim("n")}},
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_shapes_that_do_not_fit_the_example_are_refused(
    session: hopyard.Session, misfit: str
) -> None:
    with pytest.raises(UsageError):
        session.capture(
            lambda x: x + 1,
            (torch.ones((4, 2, 1) if misfit == "size 1" else (4, 2)),),
            dynamic_shapes=MISFITS[misfit],
        )


def test_star_arguments_and_results_that_are_sizes(session: hopyard.Session) -> None:
    def function(*parts: Tensor, **more: Tensor) -> Any:
        return torch.cat([*parts, *more.values()]), parts[1].shape[0] + 1

    dim = Dim("n")
    program = session.capture(
        function,
        (torch.ones(2), torch.ones(3)),
        {"last": torch.ones(4)},
        dynamic_shapes={"parts": ({0: dim}, {0: Dim("m")}), "last": [Dim.DYNAMIC]},
    )
    result, size = program(torch.ones(5), torch.zeros(6), last=torch.ones(7))
    assert (result.shape[0], size) == (18, 7)


def test_changes_and_layouts_of_dynamic_inputs(session: hopyard.Session) -> None:
    def function(x: Tensor) -> Any:
        x.add_(1)
        return x, x.flatten() * 2

    program = session.capture(function, (torch.zeros(3, 2),), dynamic_shapes=[{0: Dim("n")}])
    given = torch.zeros(2, 5).t()
    result, flat = program(given)
    assert result is given
    assert given.tolist() == torch.ones(5, 2).tolist()
    assert flat.tolist() == [2] * 10


def test_the_request_tells_observers_what_is_dynamic(session: hopyard.Session) -> None:
    class Observer:
        seen: Any = None

        @hookimpl
        def hopyard_before_capture(self, request: Any) -> None:
            self.seen = (request.tracing_mode, request.dynamic_shapes)

    observer = Observer()
    watched = hopyard.Session(discover=False, plugins=[observer])
    watched.capture(torch.sin, (torch.ones(3),), dynamic_shapes=[{0: Dim.AUTO}])
    assert observer.seen == ("symbolic", [{0: Dim.AUTO}])


def test_a_static_exported_program_has_the_examples_that_compilers_ask_for(
    session: hopyard.Session,
) -> None:
    given_args, given_kwargs = example()
    program = session.capture(Encoder().eval(), given_args, given_kwargs)
    found = program.to_exported_program().example_inputs
    assert found is not None
    args, kwargs = found
    assert args[0].shape == given_args[0].shape
    assert kwargs["extra"]["pairs"].shape == given_kwargs["extra"]["pairs"].shape
    program(*args, **kwargs)
