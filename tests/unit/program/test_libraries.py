"""Captures depend on no library that this machine happens to have, and leave them as they were."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.export import Dim

from hopyard import Session
from hopyard.program._libraries import without_libraries


@pytest.fixture(scope="module")
def session() -> Session:
    return Session(discover=False)


def _flags() -> tuple[bool, bool]:
    return torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled


def test_a_convolution_takes_more_samples_than_a_library_would_want(session: Session) -> None:
    model = nn.Conv2d(3, 4, 3)
    shapes = {"input": {0: Dim.AUTO}}
    program = session.capture(model, (torch.randn(4, 3, 8, 8),), dynamic_shapes=shapes)
    for size in (1, 16, 40):
        given = torch.randn(size, 3, 8, 8)
        torch.testing.assert_close(program(given), model(given))


def test_a_recurrent_network_is_made_of_operators_that_every_machine_has(session: Session) -> None:
    model = nn.LSTM(3, 4, batch_first=True).eval()
    with torch.no_grad():
        program = session.capture(model, (torch.randn(2, 5, 3),))
        given = torch.randn(2, 5, 3)
        torch.testing.assert_close(program(given), model(given))
    assert not [node for node in program.graph.nodes if "mkldnn" in str(node.target)]


def test_libraries_are_as_before_also_after_a_failure(session: Session) -> None:
    before = _flags()
    seen = []

    def failing(x: torch.Tensor) -> torch.Tensor:
        seen.append(_flags())
        raise RuntimeError("it fails")

    with pytest.raises(Exception, match="it fails"):
        session.capture(failing, (torch.ones(2),))
    assert seen == [(False, False)]
    assert _flags() == before


def test_the_last_of_overlapping_captures_puts_them_back() -> None:
    before = _flags()
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with without_libraries():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=other)
    with without_libraries():
        thread.start()
        inside.wait(10)
    assert _flags() == (False, False)
    leave.set()
    thread.join()
    assert _flags() == before
