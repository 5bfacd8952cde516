"""Random programs are captured as torch captures them, and their graphs compute what they do."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from programs import Recipe
from strategies import check, recipes


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes())
def test_a_random_program_is_captured_as_torch_captures_it(recipe: Recipe) -> None:
    check(recipe)
