"""Random programs are captured as torch captures them, and their graphs compute what they do."""

from __future__ import annotations

import pytest
from agreement import MODES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from programs import Recipe
from strategies import SIZED_MODES, check, recipes


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes(), st.sampled_from(MODES))
def test_a_random_program_is_captured_as_torch_captures_it(recipe: Recipe, mode: str) -> None:
    check(recipe, [mode])


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(recipes("sizes"), st.sampled_from(SIZED_MODES))
def test_a_program_about_sizes_is_captured_as_torch_captures_it(recipe: Recipe, mode: str) -> None:
    check(recipe, [mode])
