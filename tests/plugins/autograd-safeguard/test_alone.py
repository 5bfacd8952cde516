"""The safeguard without a session, around torch's own tracers, beside torch's own safeguard."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.export._safeguard import AutogradStateOpsFailSafeguard
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import _get_current_function_mode_stack

import hopyard
from hopyard.errors import SafeguardError
from hopyard_autograd_safeguard import AutogradStateSafeguard

ONES = torch.ones(2)
Program = Callable[[Tensor], Tensor]


def disabling(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x + 1


def enabling(x: Tensor) -> Tensor:
    with torch.enable_grad():
        return x + 1


def setting(x: Tensor) -> Tensor:
    torch.set_grad_enabled(not torch.is_grad_enabled())
    try:
        return x + 1
    finally:
        torch.set_grad_enabled(not torch.is_grad_enabled())


def keeping(x: Tensor) -> Tensor:
    with torch.set_grad_enabled(torch.is_grad_enabled()):
        return x + 1


@torch.no_grad()
def decorated(x: Tensor) -> Tensor:
    return x + 1


def of_nothing(x: Tensor) -> Tensor:
    with torch.no_grad():
        pass
    return x + 1


PROGRAMS = [disabling, enabling, setting, keeping, decorated, of_nothing]


def verdict(guard: type, program: Program, ambient: bool, **options: object) -> bool:
    """Return whether a program is refused by a safeguard around torch's tracer."""
    with torch.set_grad_enabled(ambient):
        try:
            with guard():
                make_fx(program, **options)(ONES)
        except (RuntimeError, SafeguardError):
            return True
        finally:
            assert torch.is_grad_enabled() is ambient
            assert _get_current_function_mode_stack() == []
    return False


@pytest.mark.parametrize("options", [{}, {"tracing_mode": "fake"}, {"pre_dispatch": True}], ids=str)
@pytest.mark.parametrize("ambient", [True, False])
@pytest.mark.parametrize("program", PROGRAMS)
def test_it_refuses_what_torchs_refuses(program: Program, ambient: bool, options: dict) -> None:
    ours = verdict(AutogradStateSafeguard, program, ambient, **options)
    assert ours == verdict(AutogradStateOpsFailSafeguard, program, ambient, **options)


def test_it_tells_the_line_and_what_to_do() -> None:
    with pytest.raises(SafeguardError) as raised, AutogradStateSafeguard():
        make_fx(disabling)(ONES)
    error = raised.value
    assert error.finding.code == "HY101"
    assert error.location.line == disabling.__code__.co_firstlineno + 1
    assert "would flow" in error.message
    assert all(remedy in error.hint for remedy in ("detach", "pre_dispatch", "torch.no_grad()"))


def test_it_works_under_torch_export() -> None:
    class Block(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return disabling(x)

    with pytest.raises(SafeguardError), AutogradStateSafeguard():
        hopyard.make_fx(Block(), tracing_mode="fake")(ONES)
    with AutogradStateSafeguard():
        exported = torch.export.export(Block(), (ONES,), strict=False)
    assert exported.module()(ONES).equal(ONES + 1)


def test_outside_of_traces_the_grad_mode_is_free() -> None:
    with AutogradStateSafeguard():
        assert disabling(ONES.requires_grad_(False)).equal(ONES + 1)
        with torch.no_grad():
            assert not torch.is_grad_enabled()
