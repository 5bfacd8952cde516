"""The pass `delegate`: what it asks of backends, what it says, and what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.testing import assert_close

import hopyard_executorch_delegate
import hopyard_executorch_delegate._plugin as delegate_plugin
from hopyard import Program, Session
from hopyard.errors import (
    HopyardError,
    OptionError,
    PassError,
    UnknownNameError,
)
from hopyard_executorch_delegate import DelegationError, ReferenceBackend, report
from hopyard_hookspecs import Backend, Lowered, Support, hookimpl

X = torch.linspace(-1, 1, 6).reshape(2, 3)


def chain(x: Tensor) -> Tensor:
    x = (x.sin() * 2).cos()
    return (torch.rand_like(x) + x).exp()


class Other:
    """A backend plugin whose behaviour a test chooses."""

    def __init__(self, **behaviour: Callable[..., Any]) -> None:
        class Implementation(ReferenceBackend):
            def lower(self, partition: GraphModule, options: Any, /) -> Any:
                lowered = super().lower(partition, options)
                return dataclasses.replace(lowered, backend_id="other")

        for name, method in behaviour.items():
            setattr(Implementation, name, method)
        self.implementation = Implementation

    @hookimpl
    def hopyard_register_backends(self) -> Iterator[Backend]:
        yield Backend("other", self.implementation)


def delegate(pipeline: str = "delegate{backend=other}", **behaviour: Callable[..., Any]) -> Program:
    session = Session(discover=False, plugins=[delegate_plugin, Other(**behaviour)])
    return session.run(pipeline, session.capture(chain, (X,))).program


def failure(**behaviour: Callable[..., Any]) -> DelegationError:
    with pytest.raises(PassError) as caught:
        delegate(**behaviour)
    error: BaseException | None = caught.value
    while not isinstance(error, DelegationError):
        assert error is not None
        error = error.__cause__
    assert str(error) in str(caught.value)
    assert error.backend == "other"
    assert error.plugin is not None
    assert error.plugin.plugin == "other"
    return error


def raises(*args: Any) -> Any:
    raise RuntimeError("no power")


def lowered(**changes: Any) -> Callable[..., Any]:
    def lower(self: Any, partition: GraphModule, options: Any) -> Lowered:
        return dataclasses.replace(Lowered(partition, "other", b"bytes"), **changes)

    return lower


def graph_of(function: Callable[..., Any], *inputs: Tensor) -> GraphModule:
    from hopyard import make_fx

    return make_fx(function, tracing_mode="fake")(*inputs)


class TestBackends:
    def test_any_registered_backend_can_be_named(self) -> None:
        program = delegate()
        assert [each.backend for each in report(program).partitions] == ["other", "other"]

    def test_two_backends_share_a_program(self) -> None:
        def only_trigonometry(self: Any, node: Any) -> Support:
            known = node.target in (torch.ops.aten.sin.default, torch.ops.aten.cos.default)
            return Support(known, "" if known else "is no trigonometry")

        program = delegate("delegate{backend=other},delegate", supports=only_trigonometry)
        found = report(program)
        assert [each.backend for each in found.partitions] == [
            "other",
            "reference",
            "other",
            "reference",
        ]
        (left,) = found.undelegated
        assert left.reasons == {
            "other": "is no trigonometry",
            "reference": "draws random numbers",
        }
        torch.manual_seed(3)
        expected = chain(X)
        torch.manual_seed(3)
        assert_close(program(X), expected)

    def test_one_that_raises_when_asked_is_named(self) -> None:
        error = failure(supports=raises)
        assert error.partition is None
        assert isinstance(error.__cause__, RuntimeError)
        assert "raised RuntimeError when asked about" in error.message

    def test_one_that_answers_something_else_is_named(self) -> None:
        assert "answered a bool" in failure(supports=lambda self, node: True).message

    def test_one_that_raises_when_lowering_is_named_with_the_partition(self) -> None:
        def second(self: Any, partition: GraphModule, options: Any) -> Any:
            if any(node.target is torch.ops.aten.exp.default for node in partition.graph.nodes):
                raise RuntimeError("no power")
            return Lowered(partition, "other", b"")

        error = failure(lower=second)
        assert error.partition == 1
        assert isinstance(error.__cause__, RuntimeError)
        assert "partition 1 (2 operators, add to exp)" in error.message

    @pytest.mark.parametrize(
        ("lower", "said"),
        [
            (lambda *_: None, "a NoneType instead of a Lowered"),
            (lowered(backend_id="reference"), "something of the backend 'reference'"),
            (lowered(processed_bytes="text"), "a str instead of bytes"),
            (lowered(original_module=nn.ReLU()), "something without a reference graph"),
            (
                lowered(original_module=graph_of(lambda x: (x.double(),), X)),
                r"returns (float64[2, 3] on cpu) instead of (float32[2, 3] on cpu)",
            ),
            (
                lowered(original_module=graph_of(lambda x: (x[0],), X)),
                "returns (float32[3] on cpu) instead of (float32[2, 3] on cpu)",
            ),
            (
                lowered(original_module=graph_of(lambda x: (x, x), X)),
                "returns (float32[2, 3] on cpu, float32[2, 3] on cpu) instead of",
            ),
            (
                lowered(original_module=graph_of(lambda x, y: (x,), X, X)),
                "takes (float32[2, 3] on cpu, float32[2, 3] on cpu) instead of (float32[2, 3]",
            ),
        ],
    )
    def test_one_that_lies_about_what_it_lowered_is_named(
        self, lower: Callable[..., Any], said: str
    ) -> None:
        error = failure(lower=lower)
        assert error.partition == 0
        assert said in error.message

    def test_one_that_changes_the_graph_it_is_given_is_found_out(self) -> None:
        def lower(self: Any, partition: GraphModule, options: Any) -> Lowered:
            output = partition.graph.output_node()
            output.args = (tuple(partition.graph.find_nodes(op="placeholder")) * 2,)
            return Lowered(partition, "other", b"")

        assert "instead of" in failure(lower=lower).message

    def test_after_a_failure_the_program_is_as_before(self) -> None:
        session = Session(discover=False, plugins=[delegate_plugin, Other(lower=raises)])
        program = session.capture(chain, (X,))
        before = str(program.graph)
        with pytest.raises(HopyardError):
            session.run("delegate{backend=other}", program)
        assert str(program.graph) == before
        assert report(session.run("delegate", program).program).partitions


class TestOptions:
    def test_an_unknown_backend_is_answered_with_the_closest(self, session: Session) -> None:
        program = session.capture(chain, (X,))
        with pytest.raises(UnknownNameError) as caught:
            session.run("delegate{backend=referense}", program)
        assert caught.value.closest == "reference"
        assert str(caught.value.plugin).startswith("executorch-delegate [")
        assert caught.value.stage == "delegate"

    @pytest.mark.parametrize("minimum", ["0", "-1"])
    def test_a_minimum_below_one_is_refused(self, session: Session, minimum: str) -> None:
        with pytest.raises(OptionError, match="minimum must be at least 1"):
            session.pipeline(f"delegate{{minimum={minimum}}}")

    def test_the_plugin_lists_without_loading_torch(self, session: Session) -> None:
        assert set(session.hops) == {"executorch_delegate__call_delegate"}
        assert set(session.backends) == {"reference", "xnnpack"}
        assert str(session.pipeline("delegate{minimum=2}")) == "delegate{minimum=2}"


class TestReport:
    def test_it_says_what_went_where(self) -> None:
        found = report(delegate("delegate"))
        assert [(each.name, each.backend, each.operators) for each in found.partitions] == [
            ("lowered_module_0", "reference", 3),
            ("lowered_module_1", "reference", 2),
        ]
        assert found.delegated_operators == 5
        (left,) = found.undelegated
        assert (left.name, left.target) == ("rand_like", "aten.rand_like.default")
        assert left.reasons == {"reference": "draws random numbers"}

    def test_it_reads_as_text(self) -> None:
        program = delegate("delegate")
        sizes = [each.size for each in report(program).partitions]
        assert str(report(program)).splitlines() == [
            "5 of 6 operators delegated, in 2 partitions",
            f"  lowered_module_0: 3 operators to reference, {sizes[0]} bytes",
            f"  lowered_module_1: 2 operators to reference, {sizes[1]} bytes",
            "  rand_like: aten.rand_like.default stays (reference: draws random numbers)",
        ]

    def test_a_program_that_was_never_delegated_has_one_too(self, session: Session) -> None:
        found = report(session.capture(lambda x: x.sin(), (X,)))
        assert found.partitions == ()
        assert str(found).splitlines() == [
            "0 of 1 operators delegated, in 0 partitions",
            "  sin: aten.sin.default stays (no backend was asked)",
        ]


def test_the_backend_of_the_readme_works() -> None:
    readme = Path(__file__).parents[3] / "plugins/executorch-delegate/README.md"
    blocks = readme.read_text(encoding="utf-8").split("```python\n")[1:]
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks:
        exec(compile(block.partition("```")[0], str(readme), "exec"), namespace)
    assert "operators delegated" in str(namespace["report"](namespace["program"]))


def test_everything_public_can_be_imported() -> None:
    assert hopyard_executorch_delegate.__all__ == [
        "CALL_DELEGATE",
        "CacheWarning",
        "Delegate",
        "DelegationError",
        "DelegationReport",
        "LoweredModule",
        "Progress",
        "PteListing",
        "PteProgram",
        "ReferenceBackend",
        "Undelegate",
        "XnnpackBackend",
        "call_delegate",
        "convert_to_executorch",
        "delegate",
        "from_executorch",
        "inspect_pte",
        "report",
        "run_pte",
        "to_executorch",
    ]
    for name in dir(hopyard_executorch_delegate):
        assert getattr(hopyard_executorch_delegate, name)
    with pytest.raises(AttributeError, match="no attribute 'lower'"):
        _ = hopyard_executorch_delegate.lower
