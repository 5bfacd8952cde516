"""What the plugin registers, and what importing it costs."""

from __future__ import annotations

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import hopyard_export_pass
from hopyard import Session


def test_the_passes_are_registered(session: Session) -> None:
    assert set(session.passes) == {
        "cse",
        "dce",
        "decompose",
        "fold-constants",
        "fold-conv-bn",
        "functionalize",
        "fuse-linear-activation",
        "remove-no-ops",
    }
    assert all(entry.provider.plugin == "export-pass" for entry in session.passes.values())


def test_the_installed_plugin_is_found() -> None:
    installed = Session(allow=["export-pass"])
    assert {"decompose", "dce", "remove-no-ops"} <= set(installed.passes)


def test_pipeline_text_prints_back(session: Session) -> None:
    text = "decompose{table=core-aten},remove-no-ops,dce"
    assert str(session.pipeline(text)) == text


def test_every_public_name_exists() -> None:
    assert all(hasattr(hopyard_export_pass, name) for name in hopyard_export_pass.__all__)
    assert dir(hopyard_export_pass) == hopyard_export_pass.__all__
    with pytest.raises(AttributeError):
        hopyard_export_pass.nothing  # noqa: B018


def test_importing_the_package_does_not_import_torch() -> None:
    program = "import sys, hopyard_export_pass._plugin as p\n" + (
        "list(p.hopyard_register_passes()); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_given_program_stays_as_it_is(session: Session) -> None:
    with torch.no_grad():
        program = session.capture(lambda x: torch.addcmul(x * 1, x, x), (torch.ones(2),))
    before = program.print_readable()
    result = session.run("decompose,remove-no-ops,dce", program)
    assert [record.modified for record in result.records] == [True, True, False]
    assert program.print_readable() == before


def test_the_examples_of_the_readme_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = Path(__file__).parents[3] / "plugins" / "export-pass" / "README.md"
    first, second = re.findall(
        r"```python\n(.*?)```", readme.read_text(encoding="utf-8"), re.DOTALL
    )
    exec(compile(first, str(readme), "exec"), {})
    assert capsys.readouterr().out.splitlines()[0].startswith("decompose True")

    example = types.ModuleType("readme_example")
    monkeypatch.setitem(sys.modules, example.__name__, example)
    exec(compile(second, str(readme), "exec"), example.__dict__)
    session = Session(discover=False, plugins=[example])
    with torch.no_grad():
        program = session.capture(lambda x: torch.relu(x) + 1, (torch.ones(2),))
        clamped = session.run("clamp-activations{limit=4.0}", program).program
        torch.testing.assert_close(clamped(torch.tensor([-1.0, 9.0])), torch.tensor([1.0, 5.0]))
