"""`hopyard show`, and what else `hopyard run` takes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import hopyard
from hopyard.analysis import cost_of

PRODUCT = 2 * 4 * 4 * 4


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.register_buffer("calls", torch.zeros(2))

    def forward(self, x: Tensor) -> Any:
        self.calls.add_(1)
        chosen = torch.cond(x.sum() > 0, lambda a: (a @ a,), lambda a: (a + 1,), (x,))[0]
        return {"chosen": chosen, "y": self.linear(x) * 2}


def test_a_program_is_described(place):
    program = hopyard.Session().capture(Model(), (torch.ones(4, 4),))
    program.save("it.pt2")
    data = place.json("show", "it.pt2")
    assert place.code == 0
    assert data["hopyard"] == program.manifest.hopyard
    assert data["torch"] == torch.__version__
    assert [each["plugin"] for each in data["plugins"]] == ["good"]
    assert data["hops"] == ["cond"]
    assert data["refusals"] == []
    assert data["inputs"] == [
        {"name": "x", "kind": "input", "dtype": "float32", "shape": [4, 4], "device": "cpu"}
    ]
    outputs = {(each["name"], each["kind"]) for each in data["outputs"]}
    assert ("calls", "buffer mutation") in outputs
    assert {each["name"]: each["kind"] for each in data["state"]} == {
        "linear.weight": "parameter",
        "linear.bias": "parameter",
        "calls": "buffer",
    }
    assert data["operators"]["aten.mm.default"] == 1
    cost = cost_of(program)
    assert data["cost"]["total"]["flops"] == cost.total.flops == 2 * PRODUCT
    assert data["cost"]["total"]["read"] == cost.total.read
    assert data["cost"]["operators"] == cost.data()["operators"]
    place.run("show", "it.pt2")
    lines = place.out.splitlines()
    assert lines[0].startswith("file       it.pt2 (")
    assert "hopyard.load reads it" in lines
    assert "parameters 2, 20 elements, 80 B" in lines
    assert any(line.split() == ["x", "float32[4,", "4]", "on", "cpu"] for line in lines)


@pytest.mark.parametrize("decomposed", [False, True])
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec")
def test_so_is_one_of_torch_with_dynamic_sizes(place, decomposed):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(18, 4))
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (torch.ones(3, 1, 5, 5),), dynamic_shapes=({0: batch},))
    exported = exported.run_decompositions() if decomposed else exported
    torch.export.save(exported, "theirs.pt2")
    data = place.json("show", "theirs.pt2")
    assert place.code == 0
    assert data["refusals"] == [
        "it was not saved by hopyard",
        "data/sample_inputs/model.pt is a pickle",
    ]
    (size, *others) = data["inputs"][0]["shape"]
    assert others == [1, 5, 5]
    assert data["ranges"] == {size: [2, 64]}
    total, expected = data["cost"]["total"], cost_of(exported).total
    assert {name: str(amount) for name, amount in total.items()} == {
        name: str(getattr(expected, name)) for name in ("flops", "read", "written")
    }
    modules = {row["name"]: row["type"] for row in data["cost"]["modules"]}
    assert modules["0"] == "Conv2d"
    place.run("show", "theirs.pt2", "--all")
    assert f"2 <= {size} <= 64" in place.out.splitlines()


def repacked(source: str, target: str, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        contents = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
        for name, content in {**contents, **members}.items():
            new.writestr(f"it/{name}", content)


@pytest.fixture
def saved(place) -> str:
    hopyard.Session(discover=False).capture(Model(), (torch.ones(4, 4),)).save("it.pt2")
    return "it.pt2"


def test_nothing_in_a_file_is_executed(place, saved, tmp_path):
    mark = tmp_path / "executed"
    source = f"__import__('os').mkdir({str(mark)!r})"

    class Payload:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(mark),)

    torch.save(Payload(), "payload")
    payload = Path("payload").read_bytes()
    with zipfile.ZipFile(saved) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith("models/model.json"))
        graph = archive.read(name).decode()
    target = graph.replace("torch.ops.aten.mm.default", "torch.os.mkdir")
    size = graph.replace('{"as_int": 4}', '{"as_expr": {"expr_str": "' + source + '"}}', 1)
    assert graph not in (target, size)
    for member, content, code in (
        ("data/sample_inputs/model.pt", payload, 0),
        ("data/aotinductor/model/model.so", payload, 0),
        ("models/model.json", target.encode(), 0),
        ("models/model.json", size.encode(), 1),
    ):
        repacked(saved, "evil.pt2", {member: content})
        place.run("show", "evil.pt2")
        assert place.code == code
        assert "refuses it" in place.out or "no arithmetic" in place.err
        assert not mark.exists()


@pytest.mark.parametrize("cut", [0, 1, 50, 500, 2000, -2000, -100, -1])
def test_a_damaged_file_is_one_line(place, saved, cut):
    Path("half.pt2").write_bytes(Path(saved).read_bytes()[:cut])
    place.run("show", "half.pt2")
    assert (place.code, place.out) == (1, "")
    assert place.err.startswith("hopyard: error: show: cannot read half.pt2: ")
    assert place.err.count("\n") == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"x/readme": b"hello"}, "holds no program of torch.export"),
        ({"x/data/aotinductor/model/a.so": b"\x7fELF"}, "holds only compiled code"),
        ({"x/models/model.json": b"{}"}, "cannot read other.pt2: KeyError"),
        ({"x/models/model.json": b"[" * 100_000}, "cannot read other.pt2: RecursionError"),
    ],
)
def test_another_kind_of_file_is_told_apart(place, members, message):
    with zipfile.ZipFile("other.pt2", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    place.run("show", "other.pt2")
    assert place.code == 1
    assert message in place.err
    assert "Traceback" not in place.err


def test_a_compressed_description_is_not_unpacked(place):
    with zipfile.ZipFile("bomb.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/models/model.json", bytes(10_000_000))
    place.run("show", "bomb.pt2")
    assert place.code == 1
    assert "10000000 bytes of x/models/model.json" in place.err


def test_there_is_no_file(place):
    place.run("show", "none.pt2")
    assert place.code == 1
    assert "there is no file none.pt2" in place.err


def test_example_inputs_may_come_from_a_factory_of_their_own(place):
    place.run("run", "factories:only_module", "--args", "factories:only_args", "--out", "net.pt2")
    assert place.code == 0
    assert place.json("show", "net.pt2")["inputs"][0]["shape"] == [5, 4]
    place.run("run", "factories:only_function", "--args", "factories:args_and_kwargs")
    assert place.code == 0


@pytest.mark.parametrize(
    ("target", "inputs", "message"),
    [
        ("only_module", "raises", "no weights"),
        ("only_module", "returns_module", "returned a Net"),
        ("make", "only_args", "returned a tuple to capture"),
        ("only_module", "missing", "there is no factory in 'factories' named 'missing'"),
    ],
)
def test_factories_that_do_not_fit_are_told(place, target, inputs, message):
    place.run("run", f"factories:{target}", "--args", f"factories:{inputs}")
    assert place.code in (1, 2)
    assert message in place.err


def test_what_modes_report_is_in_the_summary(place):
    place.install(
        "counting",
        """
        from hopyard_hookspecs import Mode, hookimpl

        @hookimpl
        def hopyard_register_modes():
            yield Mode("node-count", factory="site_counting_mode:NodeCount", reports=True)
        """,
    )
    place.write_module(
        "site_counting_mode",
        """
        from contextlib import nullcontext

        from hopyard_hookspecs import Report

        class NodeCount(nullcontext):
            def __init__(self, request):
                super().__init__()

            def report(self, graph_module):
                count = len(graph_module.graph.nodes)
                return Report(f"{count} nodes", data={"count": count})
        """,
    )
    place.run("run", "factories:make", "--pipeline", "keep")
    assert place.code == 0
    (line,) = (line for line in place.out.splitlines() if line.startswith("node-count"))
    assert line.endswith(" nodes as captured")
    data = place.json("run", "factories:make")
    assert data["reports"]["node-count"]["count"] >= data["nodes_before"] > 0
