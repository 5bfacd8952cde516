"""A few of the cases that `make sweep` runs all of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

# torch's own samples of inputs need it.
pytest.importorskip("expecttest", reason="torch.testing._internal needs expecttest")

import sweep_hop_db
import sweep_hops
import sweep_models
import sweep_operators
import sweep_programs
import sweep_robustness
from agreement import MODES, PRE_DISPATCH, Outcome

pytestmark = pytest.mark.filterwarnings("ignore")

COUNTS = {"operators": 30, "custom operators": 3, "higher-order operators": 4}
FEWER = {"operators": 12, "custom operators": 2, "higher-order operators": 2}
"""Symbolic captures take longer."""
MODELS = ("bert", "resnet", "mamba")
PROGRAMS = ("text-result", "input-view-changed", "mask", "cond", "remembering", "bert")
RESIZED = ("mask", "bert")
"""Programs that are captured with dynamic sizes as well."""
SYMBOLS = ("symbolic", "integers", PRE_DISPATCH + "symbolic")
PLAIN = tuple(mode for mode in MODES if mode not in SYMBOLS)
SETTLING_BYTES = 64 << 20
"""What a few symbolic captures fill sympy's caches with."""


OPERATORS = [
    pytest.param(database, entry, modes, id=f"{entry.name}-{modes[0]}")
    for counts, modes in ((COUNTS, PLAIN), (FEWER, SYMBOLS))
    for database, count in counts.items()
    for entry in sweep_operators.chosen(database, count=count)
]


@pytest.mark.parametrize(("database", "entry", "modes"), OPERATORS)
def test_an_operator_is_captured_as_torch_captures_it(
    database: str, entry: Any, modes: tuple[str, ...]
) -> None:
    for case, verdict in sweep_operators.sweep(database, [entry], modes, samples=1):
        assert not sweep_operators.is_failure(case, verdict), f"{case.command}\n{verdict.detail}"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_captured_as_torch_captures_it(name: str) -> None:
    columns = [("forward", "fake"), ("forward", "real")]
    for (form, mode), verdict in sweep_models.sweep(name, columns):
        assert verdict.outcome is Outcome.SAME, f"{name}, {form}, {mode}: {verdict.detail}"


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_a_backward_pass_is_captured_as_torch_captures_it(mode: str) -> None:
    for _, verdict in sweep_models.sweep("gpt2", [("training", mode)]):
        assert verdict.outcome is Outcome.SAME, verdict.detail


def test_programs_are_right_captured_exported_and_in_a_new_process(tmp_path: Path) -> None:
    rows = [sweep_programs.sweep(name, False, tmp_path) for name in PROGRAMS]
    rows += [sweep_programs.sweep(name, True, tmp_path) for name in RESIZED]
    sweep_programs.reload(rows, tmp_path)
    assert {row.name: row.ours for row in rows if row.is_failure} == {}
    assert [row.name for row in rows if row.program is None] == ["remembering"]


def test_the_page_of_captures_lists_every_module() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "captures.md"
    names = re.findall(r"^\| ([a-z0-9-]+) \|", page.read_text(), re.MULTILINE)
    every = [*sweep_programs.SMALL, *sweep_programs.MODELS]
    assert names == every * 2  # with fixed and with dynamic sizes


@pytest.mark.parametrize("mode", PLAIN)
def test_captures_leave_nothing_behind(mode: str) -> None:
    sweep_robustness.check_growth(mode, captures=12, settled=4)


def test_symbolic_captures_leave_nothing_behind() -> None:
    sweep_robustness.check_growth("integers", captures=4, settled=2, tolerated=SETTLING_BYTES)


@pytest.mark.parametrize(("mode", "every"), [*((mode, 90) for mode in PLAIN), ("integers", 600)])
def test_a_fault_leaves_everything_as_it_was(mode: str, every: int) -> None:
    sweep_robustness.check_faults(mode, every=every)


@pytest.mark.parametrize("mode", PLAIN)
def test_threads_do_not_disturb_each_other(mode: str) -> None:
    sweep_robustness.check_threads(mode, ("gpt2", "resnet", "branches", "maps"), rounds=1)


def test_threads_with_symbols_do_not_disturb_each_other() -> None:
    sweep_robustness.check_threads("integers", ("resnet", "branches", "maps"), rounds=1)


HOP_PROGRAMS = range(100, 104)
HOP_SURFACES = (
    "ours fake",
    "ours symbolic, again",
    "ours fake, training",
    "ours fake, above autograd",
    "torch fake, training",
    "torch symbolic, inference",
    "ours fake, functionalized",
    "AOTAutograd",
    "exported and saved",
    "captured and saved",
    "grad",
)


@pytest.mark.parametrize("surface", HOP_SURFACES)
def test_a_program_with_regions_means_the_same_on_a_surface(surface: str) -> None:
    for seed in HOP_PROGRAMS:
        verdict = sweep_hops.judge(sweep_hops.made(seed), surface)
        assert verdict.outcome is not sweep_hops.Outcome.WRONG, f"{seed}: {verdict.detail}"


def test_an_operator_of_torchs_means_the_same_on_the_surfaces_that_apply() -> None:
    assert sweep_hop_db.judge("invoke_quant_packed.simple") == []


def test_each_sample_of_torchs_operators_is_in_a_table() -> None:
    assert sweep_hop_db.unlisted() == set()
