"""A change of the grad mode that the graph would lose is refused; every other one is left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import hopyard
from hopyard.errors import CaptureError, SafeguardError
from hopyard_hookspecs import Policy

Program = Callable[[Tensor], Tensor]


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session()


def with_no_grad(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return y * x


def with_set_grad_enabled(x: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        y = x * 2
    return y * x


def with_its_name_in_autograd(x: Tensor) -> Tensor:
    with torch.autograd.no_grad():
        y = x * 2
    return y * x


@torch.no_grad()
def doubled(x: Tensor) -> Tensor:
    return x * 2


def decorated(x: Tensor) -> Tensor:
    return doubled(x) * x


@torch.no_grad
def doubled_without_parentheses(x: Tensor) -> Tensor:
    return x * 2


def decorated_without_parentheses(x: Tensor) -> Tensor:
    return doubled_without_parentheses(x) * x


@torch.set_grad_enabled(False)
def doubled_by_set(x: Tensor) -> Tensor:
    return x * 2


def decorated_by_set(x: Tensor) -> Tensor:
    return doubled_by_set(x) * x


def decorated_generator(x: Tensor) -> Tensor:
    @torch.no_grad()
    def twice() -> Iterator[Tensor]:
        yield x * 2

    return next(twice()) * x


def by_function(x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    y = x * 2
    torch.set_grad_enabled(True)
    return y * x


def never_switched_back(x: Tensor) -> Tensor:
    y = x * 2
    torch.set_grad_enabled(False)
    return y * x


def nested(x: Tensor) -> Tensor:
    with torch.enable_grad(), torch.no_grad(), torch.no_grad():
        y = x * 2
    return y * x


def deep_in_a_module(x: Tensor) -> Tensor:
    class Layer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return with_no_grad(x)

    return nn.Sequential(nn.Identity(), Layer())(x)


LOST: list[Program] = [
    with_no_grad,
    with_set_grad_enabled,
    with_its_name_in_autograd,
    decorated,
    decorated_without_parentheses,
    decorated_by_set,
    decorated_generator,
    by_function,
    nested,
    deep_in_a_module,
]


def slope(function: Any, at: float = 3.0) -> float:
    x = torch.full((2,), at, requires_grad=True)
    return float(torch.autograd.grad(function(x).sum(), x)[0][0])


def state() -> list[Any]:
    return [
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        _get_current_dispatch_mode_stack(),
        _get_current_function_mode_stack(),
    ]


@pytest.mark.parametrize("program", LOST)
def test_torch_makes_a_graph_with_another_gradient(program: Program) -> None:
    """What the safeguard is for: every program below is one of these."""
    graph = make_fx(program)(torch.ones(2))
    assert slope(program) == 6
    assert slope(graph) == 12


@pytest.mark.parametrize("program", [*LOST, never_switched_back])
def test_a_lost_block_is_refused_at_its_line(session: hopyard.Session, program: Program) -> None:
    before = state()
    with pytest.raises(SafeguardError) as raised:
        session.capture(program, (torch.ones(2),))
    assert state() == before
    error = raised.value
    assert error.finding.code == "HY101"
    assert error.finding.safeguard == "autograd-state"
    assert error.plugin.distribution == "hopyard-autograd-safeguard"
    assert "disabled" in error.message
    assert error.location.file == __file__
    with open(__file__, encoding="utf-8") as file:
        line = file.readlines()[error.location.line - 1]
    assert any(word in line for word in ("grad", "doubled", "twice"))


def test_the_line_is_the_call_of_a_decorated_function(session: hopyard.Session) -> None:
    with pytest.raises(SafeguardError) as raised:
        session.capture(decorated, (torch.ones(2),))
    assert raised.value.location.line == decorated.__code__.co_firstlineno + 1
    assert raised.value.location.function == "decorated"


@pytest.mark.parametrize("example_needs_grad", [True, False])
def test_the_example_does_not_matter(session: hopyard.Session, example_needs_grad: bool) -> None:
    with pytest.raises(SafeguardError):
        session.capture(with_no_grad, (torch.ones(2, requires_grad=example_needs_grad),))


def enabling(x: Tensor) -> Tensor:
    with torch.enable_grad():
        return x * 2


def enabling_by_set(x: Tensor) -> Tensor:
    with torch.set_grad_enabled(True):
        return x * 2


def test_enabling_is_refused_under_no_grad(session: hopyard.Session) -> None:
    for program in (enabling, enabling_by_set):
        with torch.no_grad():
            with pytest.raises(SafeguardError, match="enabled") as raised:
                session.capture(program, (torch.ones(2),))
            assert not torch.is_grad_enabled()
        assert "missing" in raised.value.message
        assert session.capture(program, (torch.ones(2),)).findings == ()


@pytest.mark.parametrize("program", LOST)
def test_under_no_grad_it_changes_nothing(session: hopyard.Session, program: Program) -> None:
    if program in (nested, by_function):
        return
    with torch.no_grad():
        captured = session.capture(program, (torch.ones(2),))
        assert captured(torch.full((2,), 3.0)).tolist() == [18, 18]
        assert captured.findings == ()


def test_a_block_that_enables_under_no_grad_is_a_change(session: hopyard.Session) -> None:
    with torch.no_grad(), pytest.raises(SafeguardError, match="enabled"):
        session.capture(by_function, (torch.ones(2),))


def test_a_block_through_which_no_gradient_passes_is_noted(session: hopyard.Session) -> None:
    def constant(x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = torch.ones(2) * 3
        return x * scale

    def unused(x: Tensor) -> Tensor:
        with torch.no_grad():
            x.abs().max()
        return x * 3

    def of_indices(x: Tensor) -> Tensor:
        with torch.no_grad():
            first = x.argmax()
        return x.take(first) * 3

    with torch.no_grad():
        (finding,) = session.capture(nested, (torch.ones(2),)).findings
    assert (finding.code, finding.policy) == ("HY102", Policy.RECORD)
    for program in (constant, unused, of_indices):
        captured = session.capture(program, (torch.ones(2),))
        assert [each.code for each in captured.findings] == ["HY102"]
        assert slope(captured) == slope(program)
        with pytest.raises(SafeguardError):
            session.capture(program, (torch.ones(2),), policy={"HY102": Policy.ERROR})


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_mode_around_the_capture_is_the_remedy(session: hopyard.Session, mode: Any) -> None:
    with mode():
        program = session.capture(with_no_grad, (torch.ones(2),))
        before = state()
        assert program(torch.ones(2)).tolist() == [2, 2]
        assert state() == before


def test_outside_of_captures_everything_is_free(session: hopyard.Session) -> None:
    program = session.capture(lambda x: x * 2, (doubled(torch.ones(2)),))
    assert slope(with_no_grad) == 6
    with torch.no_grad():
        assert not program(torch.ones(2, requires_grad=True)).requires_grad
    assert program(torch.ones(2, requires_grad=True)).requires_grad


def test_the_remedies_that_the_message_names_work(session: hopyard.Session) -> None:
    def detached(x: Tensor) -> Tensor:
        return (x * 2).detach() * x

    def moved_out(x: Tensor, y: Tensor) -> Tensor:
        return y * x

    program = session.capture(detached, (torch.ones(2),))
    assert slope(program) == slope(with_no_grad)
    other = session.capture(moved_out, (torch.ones(2), torch.ones(2)))
    assert slope(lambda x: other(x, doubled(x))) == slope(with_no_grad)


def test_a_policy_lets_it_through_with_a_record(session: hopyard.Session) -> None:
    with pytest.warns(UserWarning, match="HY101"):
        warned = session.capture(with_no_grad, (torch.ones(2),), policy={"HY101": Policy.WARN})
    recorded = session.capture(with_no_grad, (torch.ones(2),), policy={"HY101": Policy.RECORD})
    ignored = session.capture(with_no_grad, (torch.ones(2),), policy={"HY101": Policy.IGNORE})
    for program, policies in (
        (warned, {Policy.WARN}),
        (recorded, {Policy.RECORD}),
        (ignored, set()),
    ):
        assert {finding.policy for finding in program.findings} == policies
        assert program(torch.full((2,), 3.0)).tolist() == [18, 18]
    assert torch.is_grad_enabled()


def test_it_cannot_be_caught(session: hopyard.Session) -> None:
    def careful(x: Tensor) -> Tensor:
        try:
            return with_no_grad(x)
        except Exception:  # noqa: BLE001
            return x

    with pytest.raises(SafeguardError):
        session.capture(careful, (torch.ones(2),))


@pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, nullcontext])
@pytest.mark.parametrize("program", [with_no_grad, enabling, never_switched_back, by_function])
def test_the_mode_is_restored(
    session: hopyard.Session, context: Callable[[], Any], program: Program
) -> None:
    with context():
        before = state()
        for policy in (Policy.ERROR, Policy.RECORD):
            try:
                session.capture(program, (torch.ones(2),), policy={"HY101": policy})
            except SafeguardError:
                assert policy is Policy.ERROR
            assert state() == before


def test_threads_have_modes_of_their_own(session: hopyard.Session) -> None:
    results: dict[bool, Any] = {}
    barrier = threading.Barrier(2)

    def work(grad: bool) -> None:
        torch.set_grad_enabled(grad)
        barrier.wait(timeout=10)
        outcomes = []
        for _ in range(10):
            try:
                session.capture(with_no_grad, (torch.ones(2),))
                outcomes.append("captured")
            except CaptureError:
                outcomes.append("refused")
        results[grad] = set(outcomes)

    threads = [threading.Thread(target=work, args=(grad,)) for grad in (True, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {True: {"refused"}, False: {"captured"}}


def test_a_thread_that_the_program_starts_is_not_part_of_it(session: hopyard.Session) -> None:
    def program(x: Tensor) -> Tensor:
        results: list[Tensor] = []
        thread = threading.Thread(target=lambda: results.append(doubled(torch.ones(2))))
        thread.start()
        thread.join()
        return x * 2

    assert session.capture(program, (torch.ones(2),)).findings == ()


def test_captures_inside_captures_are_watched(session: hopyard.Session) -> None:
    def program(x: Tensor) -> Tensor:
        session.capture(with_no_grad, (torch.ones(2),))
        return x

    with pytest.raises(SafeguardError):
        session.capture(program, (torch.ones(2),))


def test_without_the_plugin_the_block_is_lost() -> None:
    session = hopyard.Session(deny=["autograd-safeguard"])
    assert slope(session.capture(with_no_grad, (torch.ones(2),))) == 12


def test_gradients_inside_are_no_change(session: hopyard.Session) -> None:
    program = session.capture(torch.func.grad(lambda x: (x**3).sum()), (torch.ones(2),))
    assert program(torch.full((2,), 2.0)).tolist() == [12, 12]


def in_inference_mode(x: Tensor) -> Tensor:
    with torch.inference_mode():
        y = x * 2
    return y.clone() * x


@torch.inference_mode()
def inferred(x: Tensor) -> Tensor:
    return x * 2


def with_an_inferred_part(x: Tensor) -> Tensor:
    return inferred(x).clone() * x


@pytest.mark.parametrize("program", [in_inference_mode, with_an_inferred_part])
def test_inference_mode_inside_is_refused_at_its_line(
    session: hopyard.Session, program: Program
) -> None:
    with pytest.raises(SafeguardError) as raised:
        session.capture(program, (torch.ones(2),))
    assert raised.value.finding.code == "HY103"
    assert raised.value.location.line == program.__code__.co_firstlineno + 1
    assert slope(program) == 6
    assert slope(session.capture(program, (torch.ones(2),), policy=Policy.IGNORE)) == 12


def test_inference_mode_without_gradients_is_noted(session: hopyard.Session) -> None:
    def program(x: Tensor) -> Tensor:
        with torch.inference_mode():
            mask = x > 0
        return x * mask.clone()

    captured = session.capture(program, (torch.ones(2),))
    assert [each.code for each in captured.findings] == ["HY102"]


def test_leaving_autocast_is_refused_where_the_graph_would_not(session: hopyard.Session) -> None:
    def program(x: Tensor) -> Tensor:
        y = x @ x
        with torch.autocast("cpu", enabled=False):
            return y.float() @ x

    def exact(x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return x.sin() + 1

    x = torch.randn(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(SafeguardError) as raised:
            session.capture(program, (x,))
        lost = session.capture(program, (x,), policy=Policy.IGNORE)
        assert lost(x).dtype != program(x).dtype
        captured = session.capture(exact, (x,))
        assert captured(x).equal(exact(x))
        assert captured.findings == ()
    assert raised.value.finding.code == "HY104"
    assert raised.value.location.line == program.__code__.co_firstlineno + 2
    assert session.capture(program, (x,)).findings == ()


def test_parameters_that_a_function_closes_over_have_gradients(session: hopyard.Session) -> None:
    model = nn.Linear(2, 2)

    def program(tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return model(tokens.float())

    with pytest.raises(SafeguardError):
        session.capture(program, (torch.ones(3, 2, dtype=torch.int64),))
    model.requires_grad_(False)
    captured = session.capture(program, (torch.ones(3, 2, dtype=torch.int64),))
    assert [each.code for each in captured.findings] == ["HY102"]
