"""The program on each hazard's page is found at its line, and differs from its graph as it says."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import pytest
import torch
from pages import program
from workspace import ROOT

import hopyard
from hopyard.testing import SafeguardExample, observed_effects, same_effects
from hopyard_hookspecs import Policy, Severity

SESSION = hopyard.Session()
HAZARDS = SESSION.hazards


@pytest.fixture(params=sorted(HAZARDS))
def code(request: pytest.FixtureRequest) -> str:
    """Each code."""
    return request.param


@pytest.fixture
def page(code: str, tmp_path: Path) -> Iterator[ModuleType]:
    """What the page of a hazard defines."""
    file = tmp_path / f"page_{code}.py"
    file.write_text(program(ROOT / HAZARDS[code].page), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[file.stem]


def test_its_program_is_found_and_its_remedy_is_clean(code: str, page: ModuleType) -> None:
    example = SafeguardExample(page.program, page.args)
    around = getattr(page, "surroundings", nullcontext())
    with around:
        captured = SESSION.capture(page.program, page.args, policy=Policy.RECORD)
    found = [(each.location.line, each.code) for each in captured.findings]
    assert found == example.marks
    assert {marked for _, marked in found} == {code}
    with around:
        eager = observed_effects(page.program, page.args)
        same = same_effects(eager, observed_effects(captured, page.args))
    assert same == (HAZARDS[code].severity is not Severity.ERROR)
    remedied = getattr(page, "remedied", None)
    if remedied is not None:
        clean = SESSION.capture(remedied, page.args)
        assert clean.findings == ()
        wanted = observed_effects(remedied, page.args)
        assert same_effects(wanted, observed_effects(clean, page.args))


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
def test_torch_export_loses_it(code: str, page: ModuleType) -> None:
    """What the pages say of `torch.export`: its decomposed program is no better than a graph."""

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> object:
            return page.program(x)

    with getattr(page, "surroundings", nullcontext()):
        exported = torch.export.export(Module(), page.args, strict=False).run_decompositions({})
        eager = observed_effects(page.program, page.args)
        same = same_effects(eager, observed_effects(exported.module(), page.args))
    assert same == (HAZARDS[code].severity is not Severity.ERROR)
