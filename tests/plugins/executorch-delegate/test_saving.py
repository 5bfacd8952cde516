"""Delegated programs in files."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from delegate_chips import ChipsPlugin, Waves
from torch import Tensor, nn
from torch.export import Dim
from torch.testing import assert_close

import hopyard_executorch_delegate._plugin as delegate_plugin
from hopyard import Program, Session
from hopyard.errors import ArtifactError, ProgramError, UnknownNameError
from hopyard_executorch_delegate import call_delegate, delegate, report
from hopyard_hookspecs import Backend, Lowered, hookimpl

X = torch.linspace(-1, 1, 6).reshape(2, 3)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(1, 2, 12).reshape(3, 4))
        self.register_buffer("calls", torch.zeros(4))

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        y = (x @ self.weight + 1).exp() * self.calls
        return y, y.argmax(-1)


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False, plugins=[delegate_plugin, ChipsPlugin()])


def delegated(session: Session, *backends: str, shapes: Any = None) -> Program:
    program = session.capture(Model(), (X,), dynamic_shapes=shapes)
    return delegate(program, session, backends)


@pytest.fixture
def saved(session: Session, tmp_path: Path) -> Path:
    delegated(session, "sums", "reference").save(tmp_path / "program.pt2")
    return tmp_path / "program.pt2"


def facts(program: Program) -> list[Any]:
    calls = program.graph.find_nodes(op="call_function", target=call_delegate)
    modules = [getattr(program.graph_module, call.args[0].target) for call in calls]
    return [
        (each.backend_id, each.processed_bytes, each.compile_specs, each.meta, each.baked.digests)
        for each in modules
    ]


@pytest.mark.parametrize("backends", [("reference",), ("sums", "reference"), ("waves",)])
@pytest.mark.parametrize("shapes", [None, {"x": {0: Dim("batch", min=2, max=16)}}])
def test_a_loaded_program_is_delegated_as_before(
    backends: tuple[str, ...], shapes: Any, session: Session, tmp_path: Path
) -> None:
    program = delegated(session, *backends, shapes=shapes)
    program.save(tmp_path / "program.pt2")
    loaded = session.load(tmp_path / "program.pt2")
    assert facts(loaded) == facts(program)
    assert str(loaded.graph) == str(program.graph)
    with torch.no_grad():
        for size in (2, 2) if shapes is None else (2, 5, 16):
            x = torch.randn(size, 3)
            assert_close(loaded(x), program(x))


def test_it_is_the_bytes_that_run_after_loading(session: Session, tmp_path: Path) -> None:
    delegated(session, "reference").save(tmp_path / "program.pt2")
    loaded = session.load(tmp_path / "program.pt2")

    def never(*operands: Any) -> None:
        raise AssertionError("the reference graph ran")

    for module in loaded.graph_module.children():
        module.original_module.forward = never
    with torch.no_grad():
        loaded(X)


def test_gradients_are_right_after_loading(session: Session, tmp_path: Path) -> None:
    program = delegated(session, "reference")
    program.save(tmp_path / "program.pt2")
    loaded = session.load(tmp_path / "program.pt2")
    for each in (program, loaded):
        each(X)[0].sum().backward()
    assert_close(loaded.state["weight"].grad, program.state["weight"].grad)


def test_bytes_that_hold_state_know_it_again(session: Session, tmp_path: Path) -> None:
    program = delegated(session, "constants")
    program.save(tmp_path / "program.pt2")
    loaded = session.load(tmp_path / "program.pt2")
    assert [each.lowered.baked for each in loaded.graph_module.children()] == [
        each.lowered.baked for each in program.graph_module.children()
    ]
    with torch.no_grad():
        loaded.state["weight"].mul_(2)
        with pytest.raises(ProgramError, match="is not what it was"):
            loaded(X)


def test_two_calls_of_one_partition_are_one_after_loading(session: Session, tmp_path: Path) -> None:
    (module,) = delegate(session.capture(torch.sin, (X,)), session).graph_module.children()

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(self.inner(x)[0])[0]

    session.capture(Twice(), (X,)).save(tmp_path / "program.pt2")
    loaded = session.load(tmp_path / "program.pt2")
    assert_close(loaded(X), X.sin().sin())


def test_torch_reads_an_undelegated_program(session: Session, tmp_path: Path) -> None:
    program = delegated(session, "sums", "reference")
    undelegated = session.run("undelegate", program).program
    assert report(undelegated).partitions == ()
    undelegated.save(tmp_path / "program.pt2")
    exported = torch.export.load(tmp_path / "program.pt2")
    assert_close(exported.module()(X), Model()(X))


def test_a_backend_that_is_not_there_is_named(saved: Path) -> None:
    with pytest.raises(UnknownNameError, match="no backend named 'sums'"):
        Session(discover=False, plugins=[delegate_plugin]).load(saved)


@pytest.mark.parametrize(
    ("member", "change"),
    [
        ("hopyard-module-0", lambda content: content[:-1]),
        ("hopyard-module-0", lambda content: b""),
        ("hopyard-module-1", lambda content: content[:40] + b"?" + content[41:]),
        ("hopyard-modules.json", lambda content: b"[]"),
        ("hopyard-modules.json", lambda content: content.replace(b'"format": 1', b'"format": 9')),
        ("hopyard-modules.json", lambda content: content.replace(b"module-1", b"module-7")),
        ("hopyard-modules.json", lambda content: content.replace(b"call_delegate", b"region")),
        ("hopyard-modules.json", lambda content: content[: len(content) // 2]),
    ],
)
def test_a_damaged_file_is_refused(
    member: str, change: Callable[[bytes], bytes], saved: Path, session: Session
) -> None:
    rewrite(saved, member, change)
    with pytest.raises((ArtifactError, UnknownNameError)):
        session.load(saved)


def rewrite(path: Path, member: str, change: Callable[[bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    assert any(entry.filename.endswith(member) for entry, _ in entries)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for entry, content in entries:
            changed = change(content) if entry.filename.endswith(member) else content
            archive.writestr(entry.filename, changed)


def test_native_bytes_need_trust(tmp_path: Path) -> None:
    class Plugin:
        @hookimpl
        def hopyard_register_backends(self) -> Iterator[Backend]:
            yield Backend("waves", implementation=Waves, native=True)

    session = Session(discover=False, plugins=[delegate_plugin, Plugin()])
    path = tmp_path / "program.pt2"
    delegate(session.capture(torch.sin, (X,)), session, ("waves",)).save(path)
    with pytest.raises(ArtifactError, match="native code of the backend 'waves'"):
        session.load(path)
    assert_close(session.load(path, trust=True)(X), X.sin())


def test_what_has_no_form_is_named_and_nothing_is_written(tmp_path: Path) -> None:
    class Odd(Waves):
        def lower(self, partition: Any, options: Any) -> Lowered:
            return Lowered(partition, "waves", b"", meta={"object": object()})

    class Plugin:
        @hookimpl
        def hopyard_register_backends(self) -> Iterator[Backend]:
            yield Backend("waves", implementation=Odd)

    session = Session(discover=False, plugins=[delegate_plugin, Plugin()])
    program = delegate(session.capture(torch.sin, (X,)), session, ("waves",))
    with pytest.raises(ArtifactError, match="partition 0 of the backend 'waves' holds a object"):
        program.save(tmp_path / "program.pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_members_are_listed(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("hopyard-modules.json")]
        listed = json.loads(archive.read(name))["modules"]
    assert {each["operator"] for each in listed} == {"executorch_delegate__call_delegate"}
