"""What needs a plugin that is installed and disabled says so, instead of advising to install it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from hopyard import Session
from hopyard.errors import UnknownNameError
from hopyard_strict_mode import strict_mode


def test_loading_a_program_whose_plugin_is_disabled(tmp_path: Path) -> None:
    def program(x: Tensor) -> Tensor:
        return strict_mode(torch.sin, (x,))

    path = tmp_path / "region.pt2"
    Session(allow=["strict-mode"]).capture(program, (torch.ones(2),)).save(path)
    with pytest.raises(UnknownNameError) as raised:
        Session(deny=["strict-mode"]).load(path)
    assert raised.value.distribution == "hopyard-strict-mode"
    assert raised.value.status == "disabled"
    assert "pip install" not in str(raised.value)
