"""Objects of C++ classes in programs: held, given, and called in graphs but not by captures."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind

from hopyard import Session
from hopyard.errors import ArtifactError, InputError, UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")

implementations = pytest.importorskip(
    "torch.testing._internal.torchbind_impls", reason="this build of torch has no such classes"
)


@pytest.fixture(scope="module")
def classes() -> Any:
    """Return classes of torch's own tests, which have fake classes."""
    try:
        implementations.init_torchbind_implementations()
    except (OSError, RuntimeError) as error:
        pytest.skip(f"this build of torch has no such classes: {error}")
    return torch.classes._TorchScriptTesting


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False)


class Holding(nn.Module):
    def __init__(self, held: Any, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.held = held
        self.also = held
        self.register_buffer("total", torch.zeros(3))
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def by_operator(self: Any, x: Tensor) -> Any:
    scale = torch.ops._TorchScriptTesting.takes_foo
    return scale(self.held, x) + scale(self.also, x + 1)


def by_method(self: Any, x: Tensor) -> Any:
    return self.held.add_tensor(x) + self.also.add_tensor(x * 2)


def queued(self: Any, x: Tensor) -> Any:
    self.held.push(x * 2)
    return x + 1


def queued_and_changed(self: Any, x: Tensor) -> Any:
    y = x.clone()
    y[0].add_(1)
    self.held.push(y)
    self.total[1:].add_(y[1:])
    return self.held.pop() * 2 + y


def foo(classes: Any) -> Any:
    return classes._Foo(10, 20)


def queue(classes: Any) -> Any:
    return classes._TensorQueue(torch.zeros(3))


CASES = [
    (foo, by_operator),
    (foo, by_method),
    (queue, queued),
    (queue, queued_and_changed),
]


@pytest.mark.parametrize(("make", "forward"), CASES)
def test_an_object_that_a_module_holds_is_an_input_of_its_own_kind(
    session: Session, tmp_path: Path, classes: Any, make: Any, forward: Any
) -> None:
    module, given = Holding(make(classes), forward), torch.randn(3)
    held = module.held
    program = session.capture(module, (given,))
    assert module.held is held
    assert module.also is held
    kinds = [spec.kind for spec in program.signature.input_specs]
    assert kinds == [InputKind.BUFFER, InputKind.CUSTOM_OBJ, InputKind.USER_INPUT]
    exported = program.to_exported_program()
    again = session.from_exported_program(exported)
    assert again == program
    expected = Holding(make(classes), forward)(given)
    decomposed = exported.run_decompositions().module(check_guards=False)
    for found in (program, again, exported.module(check_guards=False), decomposed):
        torch.testing.assert_close(found(given), expected)
    recaptured = session.capture(program, (given,))
    torch.testing.assert_close(recaptured(given), expected)
    with pytest.raises(ArtifactError, match="lifted_object_0 is a ScriptObject"):
        program.save(tmp_path / "it.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pre_dispatch", [False, True])
def test_a_capture_calls_no_method_and_every_call_of_the_program_does(
    session: Session, classes: Any, pre_dispatch: bool
) -> None:
    module = Holding(queue(classes), queued)
    program = session.capture(module, (torch.ones(3),), pre_dispatch=pre_dispatch)
    assert module.held.size() == 0
    for count in (1, 2):
        program(torch.full((3,), float(count)))
        assert module.held.size() == count
    assert module.held.pop().tolist() == [2.0] * 3


def test_an_object_that_is_given_may_be_another_of_its_class(
    session: Session, tmp_path: Path, classes: Any
) -> None:
    def function(held: Any, x: Tensor) -> Tensor:
        return held.add_tensor(x)

    x = torch.ones(3)
    program = session.capture(function, (foo(classes), x))
    exported = program.to_exported_program()
    versions = [
        program,
        session.from_exported_program(exported),
        exported.module(check_guards=False),
        exported.run_decompositions().module(check_guards=False),
        session.capture(program, (foo(classes), x)),
    ]
    for version in versions:
        assert version(classes._Foo(1, 2), x).tolist() == [3.0] * 3
    assert program.guards[0] == "held: an object of _TorchScriptTesting._Foo"
    with pytest.raises(InputError, match=r"is an object of _TorchScriptTesting\._TensorQueue"):
        program(queue(classes), x)
    with pytest.raises(InputError, match="is a value of type int"):
        program(1, x)
    with pytest.raises(ArtifactError, match="held is a ScriptObject"):
        program.save(tmp_path / "it.pt2")


def test_a_program_of_torch_takes_objects(session: Session, classes: Any) -> None:
    class Given(nn.Module):
        def forward(self, held: Any, x: Tensor) -> Tensor:
            return held.add_tensor(x)

    given = foo(classes), torch.ones(3)
    exported = torch.export.export(Given(), given, strict=False)
    assert session.from_exported_program(exported)(*given).tolist() == [30.0] * 3


def test_a_method_of_an_object_that_capture_cannot_see_is_refused(
    session: Session, classes: Any
) -> None:
    held = queue(classes)

    def function(x: Tensor) -> Tensor:
        held.push(x)
        return x + 1

    call = torch.ScriptMethod.__call__
    with pytest.raises(UnsupportedError, match="calls push of an object") as raised:
        session.capture(function, (torch.ones(3),))
    assert raised.value.location.line == function.__code__.co_firstlineno + 1
    assert "attribute of the module" in raised.value.hint
    assert held.size() == 0
    assert torch.ScriptMethod.__call__ is call


def test_other_threads_call_methods_meanwhile(session: Session, classes: Any) -> None:
    sizes: list[int] = []

    def function(x: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: sizes.append(queue(classes).size()))
        thread.start()
        thread.join()
        return x + 1

    session.capture(function, (torch.ones(3),))
    assert sizes == [0]


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_an_object_without_a_fake_class_is_given_to_operators_only(session: Session) -> None:
    packed = torch.ops.quantized.linear_prepack
    weight = torch.quantize_per_tensor(torch.randn(3, 3), 0.1, 0, torch.qint8)

    def forward(self: Any, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_dynamic(x, self.held)

    module = Holding(packed(weight, None), forward)
    given = torch.randn(2, 3)
    torch.testing.assert_close(session.capture(module, (given,))(given), module(given))
    with pytest.raises(UnsupportedError, match="has no fake class") as raised:
        session.capture(lambda held, x: x, (module.held, given))
    assert "LinearPackedParamsBase" in raised.value.hint
    module._forward = lambda self, x: x + self.held.unpack()[0].dequantize()
    with pytest.raises(UnsupportedError, match="calls unpack of an object") as raised:
        session.capture(module, (given,))
    assert "register a fake class" in raised.value.hint
