"""Equal partitions lowered once, a cache on disk, and several partitions at the same time."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from delegate_chips import Chip, ChipsPlugin, Slow, Waves
from torch import Tensor, nn
from torch.testing import assert_close

import hopyard_executorch_delegate._plugin as delegate_plugin
from hopyard import Program, Session
from hopyard.errors import OptionError
from hopyard_executorch_delegate import CacheWarning, DelegationError, Progress, delegate
from hopyard_hookspecs import Backend, Lowered, hookimpl

X = torch.linspace(-1, 1, 6).reshape(2, 3)


@pytest.fixture
def session() -> Session:
    return Session(discover=False, plugins=[delegate_plugin, ChipsPlugin()])


@pytest.fixture(autouse=True)
def counted() -> Iterator[None]:
    Chip.lowered.clear()
    yield
    Chip.lowered.clear()


def layers(x: Tensor) -> Tensor:
    for _ in range(3):
        x = (x.sin() * 2).exp()
    return x.cos()


def bytes_of(program: Program) -> list[bytes]:
    return [each.processed_bytes for each in program.graph_module.children()]


class TestEqualPartitions:
    def test_they_are_lowered_once(self, session: Session) -> None:
        seen: list[Progress] = []
        delegated = delegate(
            session.capture(layers, (X,)), session, ("waves",), progress=seen.append
        )
        assert len(Chip.lowered) == 2
        assert [(each.partition, each.way) for each in seen] == [
            (0, "lowered"),
            (3, "lowered"),
            (1, "shared"),
            (2, "shared"),
        ]
        assert [each.done for each in seen] == [1, 2, 3, 4]
        assert {(each.total, each.backend) for each in seen} == {(4, "waves")}
        assert_close(delegated(X), layers(X))

    @pytest.mark.parametrize(
        "other",
        [
            lambda x: (x.sin() * 3).exp().sin() * 2,
            lambda x: (x.sin() * 2)[0].sin() * 2,
            lambda x: (x.sin() * 2).double().exp().sin() * 2,
            lambda x: (x.sin() * 2).exp().t().sin() * 2,
        ],
        ids=["argument", "shape", "dtype", "stride"],
    )
    def test_what_differs_is_lowered_apart(
        self, other: Callable[[Tensor], Tensor], session: Session
    ) -> None:
        delegated = delegate(session.capture(other, (X,)), session, ("waves",))
        assert len(Chip.lowered) == len(bytes_of(delegated)) == 2
        assert_close(delegated(X), other(X))

    def test_equal_graphs_with_other_constants_are_not_equal(self, session: Session) -> None:
        class Two(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weights = nn.ParameterList(torch.full((3,), each) for each in (1.0, 2.0, 1.0))

            def forward(self, x: Tensor) -> Tensor:
                for weight in self.weights:
                    x = (x * weight).exp()
                return x

        module = Two()
        delegated = delegate(session.capture(module, (X,)), session, ("constants",))
        assert len(Chip.lowered) == 2
        with torch.no_grad():
            assert_close(delegated(X), module(X))


class TestCache:
    def test_it_saves_lowering_in_another_session(self, session: Session, tmp_path: Path) -> None:
        program = session.capture(layers, (X,))
        delegate(program, session, ("waves",), cache=tmp_path)
        seen: list[Progress] = []
        again = Session(discover=False, plugins=[delegate_plugin, ChipsPlugin()])
        delegated = delegate(program, again, ("waves",), cache=tmp_path, progress=seen.append)
        assert len(Chip.lowered) == 2
        assert [each.way for each in seen] == ["cached", "cached", "shared", "shared"]
        assert_close(delegated(X), layers(X))
        assert delegated.graph_module.lowered_module_0.meta == {"calls": 2}

    def test_a_pipeline_names_its_folder(self, session: Session, tmp_path: Path) -> None:
        text = f'delegate{{backend=waves,cache="{tmp_path}"}}'
        session.run(text, session.capture(layers, (X,)))
        assert len(list(tmp_path.iterdir())) == 2

    def test_options_and_backends_have_entries_of_their_own(
        self, session: Session, tmp_path: Path
    ) -> None:
        program = session.capture(torch.sin, (X,))
        for backend, options in [("waves", {}), ("waves", {"turbo": 1}), ("distant", {})]:
            delegate(program, session, (backend,), cache=tmp_path, options={backend: options})
        assert len(Chip.lowered) == len(list(tmp_path.iterdir())) == 3

    @pytest.mark.parametrize(
        ("backend", "options", "problem", "hint"),
        [
            ("distant", {"turbo": 1, "x": 2}, "has no options, but was given turbo, x", ""),
            ("reference", {"turbo": 1}, "has no options, but was given turbo", ""),
            ("waves", {"trubo": 1}, "has no option 'trubo'", "did you mean 'turbo'? "),
        ],
    )
    def test_other_options_are_refused_before_anything_is_lowered(
        self, session: Session, backend: str, options: dict[str, Any], problem: str, hint: str
    ) -> None:
        program = session.capture(torch.sin, (X,))
        with pytest.raises(OptionError) as caught:
            delegate(program, session, ("sums", backend), options={backend: options})
        assert caught.value.message == f"the backend {backend!r} {problem}"
        assert caught.value.hint == (f"{hint}valid names: turbo" if hint else "")
        assert caught.value.plugin is not None
        assert not Chip.lowered

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"",
            lambda content: content[:-1],
            lambda content: content[: len(content) // 2],
            lambda content: content.replace(b"waves", b"saves"),
            lambda content: b"garbage" * 40,
            lambda content: content.replace(b"lowered 1", b"lowered 2"),
        ],
        ids=["empty", "truncated", "half", "changed", "garbage", "later"],
    )
    def test_a_damaged_entry_is_lowered_anew_and_mended(
        self, damage: Callable[[bytes], bytes], session: Session, tmp_path: Path
    ) -> None:
        program = session.capture(torch.sin, (X,))
        delegate(program, session, ("waves",), cache=tmp_path)
        (entry,) = tmp_path.iterdir()
        whole = entry.read_bytes()
        entry.write_bytes(damage(whole))
        with pytest.warns(CacheWarning, match=r"'waves': .*; partition 0 .* is lowered anew"):
            delegated = delegate(program, session, ("waves",), cache=tmp_path)
        assert_close(delegated(X), X.sin())
        assert entry.read_bytes() == whole
        assert list(tmp_path.iterdir()) == [entry]

    def test_a_folder_that_cannot_be_written_is_a_warning(
        self, session: Session, tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        program = session.capture(torch.sin, (X,))
        with pytest.warns(CacheWarning) as warned:
            delegated = delegate(program, session, ("waves",), cache=tmp_path / "file" / "cache")
        assert any("is not kept" in str(each.message) for each in warned)
        assert_close(delegated(X), X.sin())

    def test_what_has_no_form_is_not_kept(self, tmp_path: Path) -> None:
        class Odd(Waves):
            def lower(self, partition: Any, options: Any) -> Lowered:
                return Lowered(partition, "waves", b"", meta={"object": object()})

        class Plugin:
            @hookimpl
            def hopyard_register_backends(self) -> Iterator[Backend]:
                yield Backend("waves", implementation=Odd)

        session = Session(discover=False, plugins=[delegate_plugin, Plugin()])
        with pytest.warns(CacheWarning, match="partition 0 .* is not kept: a object"):
            delegate(session.capture(torch.sin, (X,)), session, ("waves",), cache=tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_concurrent_writers_leave_whole_entries(self, session: Session, tmp_path: Path) -> None:
        program = session.capture(layers, (X,))

        def work(_: int) -> Tensor:
            return delegate(program, session, ("waves",), cache=tmp_path)(X)

        with warnings.catch_warnings(), ThreadPoolExecutor(8) as pool:
            warnings.simplefilter("error")
            results = list(pool.map(work, range(24)))
        assert_close(results, [layers(X)] * 24)
        assert len(list(tmp_path.iterdir())) == 2


class TestWorkers:
    def test_threads_lower_at_the_same_time(self, session: Session) -> None:
        Slow.together.reset()
        program = session.capture(lambda x: x.sin().exp().cos(), (X,))
        delegated = delegate(program, session, ("slow",), workers=2)
        assert threading.get_ident() not in Chip.lowered
        assert_close(delegated(X), X.sin().exp().cos())

    def test_processes_lower_elsewhere(self, session: Session, tmp_path: Path) -> None:
        program = session.capture(lambda x, y: (x.sin() * y).exp().cos(), (X, X))
        delegated = delegate(program, session, ("distant",), workers=2)
        processes = {int(each.split()[0]) for each in bytes_of(delegated)}
        assert os.getpid() not in processes
        assert_close(delegated(X, X), (X.sin() * X).exp().cos())

    def test_of_several_failures_the_first_is_reported(self, session: Session) -> None:
        class Failing(Waves):
            def lower(self, partition: Any, options: Any) -> Lowered:
                raise RuntimeError("no power")

        class Plugin:
            @hookimpl
            def hopyard_register_backends(self) -> Iterator[Backend]:
                yield Backend("waves", implementation=Failing, concurrency="threads")

        session = Session(discover=False, plugins=[delegate_plugin, Plugin()])
        program = session.capture(lambda x: x.sin().exp().cos().exp().sin(), (X,))
        with pytest.raises(DelegationError, match="no power") as caught:
            delegate(program, session, ("waves",), workers=3)
        assert caught.value.partition == 0
        assert_close(program(X), X.sin().exp().cos().exp().sin())

    def test_a_failure_in_another_process_names_the_backend(self) -> None:
        class Local(Waves):
            """Cannot travel, so that it works here all the same."""

        class Plugin:
            @hookimpl
            def hopyard_register_backends(self) -> Iterator[Backend]:
                yield Backend("waves", implementation=Local, concurrency="processes")

        session = Session(discover=False, plugins=[delegate_plugin, Plugin()])
        delegated = delegate(session.capture(torch.sin, (X,)), session, ("waves",), workers=2)
        assert bytes_of(delegated)[0].split()[0] == str(os.getpid()).encode()
