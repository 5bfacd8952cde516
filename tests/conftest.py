"""What every test may rely on."""

from __future__ import annotations

import random
import sys

import hypothesis
import pytest

hypothesis.settings.register_profile("hopyard", derandomize=True, deadline=5000, max_examples=50)
hypothesis.settings.load_profile("hopyard")


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Start every test from one seed, and from torch's too where torch is loaded already."""
    random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
