"""Files: written whole or not at all, and read without executing anything in them."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import pickle
import random
import signal
import stat
import subprocess
import sys
import threading
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

import hopyard
from hopyard import Program
from hopyard.errors import ArtifactError, ProgramError, UnknownNameError
from hopyard.program import _artifact
from hopyard.program._abandoned import in_use
from hopyard_hookspecs import Hop, hookimpl

GRAPH = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"

Members = dict[str, bytes]


@pytest.fixture(scope="module")
def session() -> hopyard.Session:
    return hopyard.Session(discover=False)


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.register_buffer("offset", torch.ones(3), persistent=False)

    def forward(self, n: int, x: Tensor) -> dict[str, Tensor]:
        return {"y": self.linear(x) * n + self.offset + torch.tensor([1.0, 2.0, 3.0])}


@pytest.fixture(scope="module")
def program(session: hopyard.Session) -> Program:
    return session.capture(Layer(), (2, torch.ones(2, 3)))


@pytest.fixture(scope="module")
def members(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Members:
    path = tmp_path_factory.mktemp("saved") / "good.pt2"
    program.save(path)
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Mapping[str, bytes], root: str = "good") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{root}/{name}", content)
    return path


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "executed"


def torch_pickle(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def edited(content: bytes, edit: Callable[[Any], object]) -> bytes:
    data = json.loads(content)
    edit(data)
    return json.dumps(data).encode()


def source(mark: Path) -> str:
    return f"__import__('os').mkdir({str(mark)!r})"


def test_an_edited_archive_that_is_harmless_is_read(
    session: hopyard.Session, members: Members, tmp_path: Path, program: Program
) -> None:
    """The files below are refused for what is added to them, not for how they are made."""
    given = torch.randn(2, 3)
    loaded = session.load(write(tmp_path / "it.pt2", members, root="other"))
    torch.testing.assert_close(loaded(2, given), program(2, given))


def with_custom_weight(members: Members, payload: bytes, kind: str) -> Members:
    config = WEIGHTS if kind == "weight" else CONSTANTS
    folder = config.rpartition("/")[0]
    file = {"weight": "weight_0", "tensor": "tensor_0"}.get(kind, f"{kind}0")
    name = "linear.weight" if kind == "weight" else "lifted_tensor_0"

    def edit(data: Any) -> None:
        data["config"][name].update(use_pickle=True, path_name=file)
        if kind not in ("weight", "tensor"):
            data["config"][name]["tensor_meta"] = None

    return {**members, config: edited(members[config], edit), f"{folder}/{file}": payload}


PICKLES: dict[str, Callable[[Members, Any], Members]] = {
    "sample inputs": lambda m, p: {**m, SAMPLES: torch_pickle(p)},
    "sample inputs, as a tuple": lambda m, p: {**m, SAMPLES: torch_pickle(((p,), {}))},
    "sample inputs, older format": lambda m, p: {
        **m,
        SAMPLES: torch_pickle(p, _use_new_zipfile_serialization=False),
    },
    "sample inputs, harmless": lambda m, p: {**m, SAMPLES: torch_pickle(((), {}))},
    "weight": lambda m, p: with_custom_weight(m, torch_pickle(p), "weight"),
    "constant": lambda m, p: with_custom_weight(m, torch_pickle(p), "tensor"),
    "opaque object": lambda m, p: with_custom_weight(m, pickle.dumps(p), "opaque_obj_"),
    "custom object": lambda m, p: with_custom_weight(m, pickle.dumps(p), "custom_obj_"),
    "weights of an older version": lambda m, p: {**m, "data/weights/model.pt": torch_pickle(p)},
    "constants of an older version": lambda m, p: {**m, "data/constants/model.pt": torch_pickle(p)},
    "second model": lambda m, p: {
        **m,
        "models/b.json": m[GRAPH],
        WEIGHTS.replace("model_", "b_"): m[WEIGHTS],
        CONSTANTS.replace("model_", "b_"): m[CONSTANTS],
        SAMPLES.replace("model", "b"): torch_pickle(p),
    },
    "second model in a folder": lambda m, p: {
        **m,
        "models/x/y.json": m[GRAPH],
        "data/sample_inputs/x/y.pt": torch_pickle(p),
    },
    "any folder": lambda m, p: {**m, "data/anything/model.pt": torch_pickle(p)},
    "top folder": lambda m, p: {**m, "model.pt": torch_pickle(p)},
    "compiled code": lambda m, p: {**m, "data/aotinductor/model/model.so": torch_pickle(p)},
    "lowered code": lambda m, p: {**m, "data/executorch/model.pte": torch_pickle(p)},
}


OF_WHICH_THE_ERROR_SPEAKS = {
    "sample inputs": SAMPLES,
    "weight": f"linear.weight in {WEIGHTS}",
    "constant": f"lifted_tensor_0 in {CONSTANTS}",
    "custom object": "data/constants/custom_obj_0",
    "weights of an older version": "data/weights/model.pt",
    "second model": "models/b.json",
    "compiled code": "data/aotinductor/model/model.so",
    "lowered code": "data/executorch/model.pte",
}


@pytest.mark.parametrize("place", OF_WHICH_THE_ERROR_SPEAKS)
def test_a_refusal_names_the_member(
    session: hopyard.Session, members: Members, tmp_path: Path, mark: Path, place: str
) -> None:
    path = write(tmp_path / "evil.pt2", PICKLES[place](members, Payload(mark)))
    with pytest.raises(ArtifactError) as raised:
        session.load(path)
    assert OF_WHICH_THE_ERROR_SPEAKS[place] in raised.value.message


@pytest.mark.parametrize("place", PICKLES)
def test_trust_is_for_native_code_only_and_does_not_run_it(
    session: hopyard.Session,
    members: Members,
    tmp_path: Path,
    mark: Path,
    program: Program,
    place: str,
) -> None:
    path = write(tmp_path / "evil.pt2", PICKLES[place](members, Payload(mark)))
    if place in ("compiled code", "lowered code"):
        given = torch.randn(2, 3)
        loaded = session.load(path, trust=True)
        torch.testing.assert_close(loaded(2, given), program(2, given))
    else:
        with pytest.raises(ArtifactError, match="run code"):
            session.load(path, trust=True)
    assert not mark.exists()


@pytest.mark.parametrize("place", PICKLES)
def test_a_pickle_is_never_executed(
    session: hopyard.Session, members: Members, tmp_path: Path, mark: Path, place: str
) -> None:
    path = write(tmp_path / "evil.pt2", PICKLES[place](members, Payload(mark)))
    with pytest.raises(ArtifactError) as raised:
        session.load(path)
    assert not mark.exists()
    assert "evil.pt2" in raised.value.message
    assert "run code" in raised.value.message
    assert "author" in raised.value.hint


def test_the_payload_is_one(mark: Path, members: Members, tmp_path: Path) -> None:
    """torch itself executes it, so that the tests above are about something."""
    path = write(tmp_path / "evil.pt2", PICKLES["sample inputs"](members, Payload(mark)))
    with pytest.raises(Exception):  # noqa: B017, PT011
        torch.export.load(path)
    assert mark.exists()


def first_node(data: Any) -> dict[str, Any]:
    return data["graph_module"]["graph"]["nodes"][0]


def rename_an_input(data: Any, name: str) -> None:
    graph = data["graph_module"]["graph"]
    index = next(
        i for i, each in enumerate(graph["inputs"]) if each.get("as_tensor", {}) == {"name": "x"}
    )
    graph["inputs"][index]["as_tensor"]["name"] = name
    graph["tensor_values"][name] = graph["tensor_values"].pop("x")
    data["graph_module"]["signature"]["input_specs"][index]["user_input"]["arg"]["as_tensor"][
        "name"
    ] = name
    for node in graph["nodes"]:
        for each in node["inputs"]:
            if each["arg"].get("as_tensor", {}).get("name") == "x":
                each["arg"]["as_tensor"]["name"] = name


def rename_a_plain_input(data: Any, name: str) -> None:
    for spec in data["graph_module"]["signature"]["input_specs"]:
        if "constant_input" in spec:
            spec["constant_input"]["name"] = name


def set_spec(data: Any, which: str, node: Any) -> None:
    data["graph_module"]["module_call_graph"][0]["signature"][which] = json.dumps([1, node])


def spec(kind: str | None, context: Any, *children: Any) -> dict[str, Any]:
    return {"type": kind, "context": context, "children_spec": list(children)}


LEAF = spec(None, None)
DEFAULTDICT = "collections.defaultdict"


def enum_key(mark: Path, quote: Callable[[str], str] = lambda text: text) -> str:
    key = quote('"__enum__"')
    return f'[{{{key}: true, "fqn": "{mark.name}:Anything", "name": "x"}}]'


def default_factory(module: str, name: str) -> dict[str, Any]:
    return {"default_factory_module": module, "default_factory_name": name, "dict_context": ["y"]}


GRAPHS: dict[str, Callable[[Any, Path], object]] = {
    "symbolic size": lambda d, m: d["graph_module"]["graph"]["tensor_values"]["x"][
        "sizes"
    ].__setitem__(0, {"as_expr": {"expr_str": source(m), "hint": None}}),
    "symbolic stride": lambda d, m: d["graph_module"]["graph"]["tensor_values"]["x"][
        "strides"
    ].__setitem__(0, {"as_expr": {"expr_str": source(m), "hint": {"as_int": 3}}}),
    "symbolic value": lambda d, m: d["graph_module"]["graph"]["sym_int_values"].update(
        x={"as_expr": {"expr_str": source(m), "hint": None}}
    ),
    "symbolic truth": lambda d, m: d["graph_module"]["graph"]["sym_bool_values"].update(
        x={"as_expr": {"expr_str": source(m)}}
    ),
    "guards": lambda d, m: d.update(guards_code=[source(m)]),
    "input name": lambda d, m: rename_an_input(d, f"x={source(m)}"),
    "input name over lines": lambda d, m: rename_an_input(
        d, f"x):\n    pass\n{source(m)}\ndef f(self"
    ),
    "plain input name": lambda d, m: rename_a_plain_input(d, f"n={source(m)}"),
    "node name": lambda d, m: first_node(d).update(name=f"a = {source(m)}; t"),
    "output name": lambda d, m: first_node(d)["outputs"][0]["as_tensor"].update(
        name=f"{source(m)}; t"
    ),
    "keyword name": lambda d, m: first_node(d)["inputs"][0].update(
        name=f"self={source(m)}, x", kind=2
    ),
    "function": lambda d, m: first_node(d).update(target="torch.os.mkdir"),
    "function of torch": lambda d, m: first_node(d).update(target="torch.ops.load_library"),
    "function of a module": lambda d, m: first_node(d).update(target="math.__loader__.load_module"),
    "extension": lambda d, m: first_node(d).update(target="#anything:op"),
    "operator": lambda d, m: first_node(d).update(target="_operator.methodcaller"),
    "function as operand": lambda d, m: first_node(d)["inputs"][0].update(
        arg={"as_operator": "torch.os.mkdir"}
    ),
    "enumeration": lambda d, m: set_spec(d, "in_spec", spec("builtins.dict", enum_key(m), LEAF)),
    "enumeration, escaped": lambda d, m: set_spec(
        d,
        "out_spec",
        spec("builtins.dict", enum_key(m, lambda t: t.replace("_e", "\\u005fe")), LEAF),
    ),
    "factory": lambda d, m: set_spec(
        d, "out_spec", spec(DEFAULTDICT, default_factory(m.name, "main"), LEAF)
    ),
    "factory from builtins": lambda d, m: set_spec(
        d, "out_spec", spec(DEFAULTDICT, default_factory("builtins", "breakpoint"), LEAF)
    ),
    "nested factory": lambda d, m: set_spec(
        d,
        "out_spec",
        spec("builtins.list", "null", spec(DEFAULTDICT, default_factory(m.name, "main"), LEAF)),
    ),
}


@pytest.mark.parametrize("attack", GRAPHS)
def test_nothing_in_the_graph_is_executed(
    session: hopyard.Session,
    members: Members,
    tmp_path: Path,
    mark: Path,
    attack: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "executed.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    graph = edited(members[GRAPH], lambda data: GRAPHS[attack](data, mark))
    assert graph != members[GRAPH]
    path = write(tmp_path / "evil.pt2", {**members, GRAPH: graph})
    with pytest.raises(ArtifactError, match="run code"):
        session.load(path)
    assert not mark.exists()
    assert "executed" not in sys.modules


@pytest.mark.parametrize("attack", ["symbolic size", "input name", "enumeration", "factory"])
def test_the_graph_would_be_executed_by_torch(
    members: Members, tmp_path: Path, mark: Path, attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "executed.py").write_text(f"import os; os.mkdir({str(mark)!r})")
    graph = edited(members[GRAPH], lambda data: GRAPHS[attack](data, mark))
    try:
        torch.export.load(write(tmp_path / "evil.pt2", {**members, GRAPH: graph}))
    except Exception:  # noqa: BLE001
        pass
    finally:
        sys.modules.pop("executed", None)
    assert mark.exists()


def test_a_symbolic_expression_in_a_configuration_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path, mark: Path
) -> None:
    def edit(data: Any) -> None:
        size = {"as_expr": {"expr_str": source(mark), "hint": None}}
        data["config"]["linear.weight"]["tensor_meta"]["sizes"][0] = size

    config = edited(members[WEIGHTS], edit)
    with pytest.raises(ArtifactError, match="run code"):
        session.load(write(tmp_path / "evil.pt2", {**members, WEIGHTS: config}))
    assert not mark.exists()


def test_what_is_stored_is_what_was_there(session: hopyard.Session, tmp_path: Path) -> None:
    class Kinds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            whole = torch.arange(12.0)
            self.register_buffer("whole", whole)
            self.register_buffer("part", whole[2:8].view(2, 3).t())
            self.register_buffer("empty", torch.empty(0, 3))
            self.register_buffer("one", torch.tensor(True))
            self.register_buffer("short", torch.ones(3, dtype=torch.bfloat16))
            self.register_buffer("complex", torch.ones(2, dtype=torch.complex64))
            self.register_buffer("wide", torch.zeros(1).expand(4))
            self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

        def forward(self, a: Tensor) -> Any:
            return a + 1, [each + 1 for each in (*self.parameters(), *self.buffers())]

    program = session.capture(Kinds(), (torch.ones(2),))
    program.save(tmp_path / "it.pt2")
    loaded = session.load(tmp_path / "it.pt2")
    assert loaded.state.keys() == program.state.keys()
    for name, value in program.state.items():
        found = loaded.state[name]
        assert type(found) is type(value)
        assert found.requires_grad == value.requires_grad
        assert (found.shape, found.stride(), found.dtype) == (
            value.shape,
            value.stride(),
            value.dtype,
        )
        assert torch.equal(found, value)
    assert loaded.state["part"].data_ptr() == loaded.state["whole"].data_ptr() + 8
    loaded.state["whole"].resize_(100)


def scaled_items(body: Callable[..., Any], *operands: Any, factor: float) -> Any:
    return pytree.tree_map(lambda item: item * factor, body(*operands))


SCALED_ITEMS = Hop("scaling__items", eager=scaled_items, summary="Scale items.")


class Scaling:
    @hookimpl
    def hopyard_register_hops(self) -> Any:
        yield SCALED_ITEMS


SCALING = Scaling()


def numbered(x: Tensor) -> Any:
    return torch.cond(x.sum() > 0, lambda a: (a + 1, 3), lambda a: (a - 1, 4), (x,))


REGIONS: dict[str, Callable[[Any], Callable[[Tensor], Any]]] = {
    "a tensor": lambda op: lambda x: op(lambda a: a + 1, x, factor=2.0),
    "a tuple": lambda op: lambda x: op(lambda a: (a + 1, a), x, factor=2.0),
    "a list": lambda op: lambda x: op(lambda a: [a + 1, a * 2], x, factor=2.0),
    "a dictionary": lambda op: lambda x: op(lambda a: {"one": a * 2}, x, factor=2.0),
    "integers": lambda op: numbered,
}


@pytest.mark.parametrize("returns", REGIONS)
def test_what_regions_return_is_kept(tmp_path: Path, returns: str) -> None:
    session = hopyard.Session(plugins=[SCALING], discover=False)
    operator = session.hop("scaling__items")
    path, given = tmp_path / "it.pt2", torch.ones(2, 3)
    function = REGIONS[returns](operator)
    session.capture(function, (given,)).save(path)
    loaded = session.load(path)
    for value in (given, -given):
        found, expected = (pytree.tree_leaves(each(value)) for each in (loaded, function))
        torch.testing.assert_close(found, expected)


class Marked(Tensor):
    """A subclass of which torch would write a pickle."""


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: torch.eye(2).as_subclass(Marked), "subclass Marked"),
        (lambda: torch.eye(2).to_sparse(), "layout torch.sparse_coo"),
        (lambda: FakeTensorMode().from_tensor(torch.eye(2)), "fake tensor"),
    ],
)
def test_a_tensor_without_plain_bytes_is_refused_by_name(
    program: Program, tmp_path: Path, make: Callable[[], Tensor], problem: str
) -> None:
    state = {**program.state, "linear.weight": nn.Parameter(make())}
    changed = program.replaced(state=state)
    with pytest.raises(ArtifactError, match=f"linear.weight.*{problem}"):
        changed.save(tmp_path / "it.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "path_name", ["../sample_inputs/model.pt", "weight_0/../../x", "/etc/passwd", ""]
)
def test_a_tensor_elsewhere_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path, path_name: str
) -> None:
    config = edited(
        members[WEIGHTS], lambda data: data["config"]["linear.weight"].update(path_name=path_name)
    )
    with pytest.raises(ArtifactError):
        session.load(write(tmp_path / "evil.pt2", {**members, WEIGHTS: config}))


@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
@pytest.mark.parametrize("evil_first", [True, False])
@pytest.mark.parametrize("member", [SAMPLES, GRAPH])
def test_a_member_given_twice_is_refused(
    session: hopyard.Session,
    members: Members,
    tmp_path: Path,
    mark: Path,
    member: str,
    evil_first: bool,
) -> None:
    evil = torch_pickle(Payload(mark))
    path = tmp_path / "evil.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        if evil_first:
            archive.writestr(f"good/{member}", evil)
        for name, content in members.items():
            archive.writestr(f"good/{name}", content)
        if not evil_first:
            archive.writestr(f"good/{member}", evil)
    with pytest.raises(ArtifactError):
        session.load(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "name", ["good/DATA/sample_inputs/model.pt", "Good/extra/x", "extra/x", "/x", "good/../x"]
)
def test_a_member_of_another_name_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path, name: str
) -> None:
    path = write(tmp_path / "evil.pt2", members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"x")
    with pytest.raises(ArtifactError):
        session.load(path)


def test_a_second_directory_is_not_what_torch_reads(
    session: hopyard.Session, members: Members, tmp_path: Path, mark: Path, program: Program
) -> None:
    """A file of two archives shows Python the last one, and may show torch the first."""
    evil = write(tmp_path / "evil.pt2", PICKLES["sample inputs"](members, Payload(mark)))
    good = write(tmp_path / "good.pt2", members)
    both = tmp_path / "both.pt2"
    both.write_bytes(evil.read_bytes() + good.read_bytes())
    given = torch.randn(2, 3)
    torch.testing.assert_close(session.load(both)(2, given), program(2, given))
    assert not mark.exists()


def test_a_compressed_member_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.pt2"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"good/{name}", content)
        archive.writestr("good/extra/zeros", bytes(10_000_000))
    with pytest.raises(ArtifactError, match="compressed"):
        session.load(path)


def test_a_file_that_claims_to_be_larger_than_it_is_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path
) -> None:
    """Members that overlap are how a small file unpacks to a large one."""
    path = write(tmp_path / "bomb.pt2", members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("good/extra/zeros", bytes(1000))
        archive.infolist()[-1].file_size = archive.infolist()[-1].compress_size = 10**9
        archive._didModify = True
    with pytest.raises(ArtifactError, match="larger than the file"):
        session.load(path)


def test_a_link_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path, mark: Path
) -> None:
    path = write(tmp_path / "evil.pt2", members)
    link = zipfile.ZipInfo("good/extra/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, str(mark))
    with pytest.raises(ArtifactError, match="good/extra/link is a link"):
        session.load(path)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "good/../../evil", "good/extra/../../e"])
def test_nothing_is_written_outside(
    session: hopyard.Session, members: Members, tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    path = write(folder / "evil.pt2", members)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"evil")
    with contextlib.suppress(ArtifactError):
        session.load(path)
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["evil.pt2", "in"]


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("byteorder", {"little": b"big", "big": b"little"}[sys.byteorder]),
        ("byteorder", b""),
        ("archive_version", b"99"),
        ("archive_format", b"pt3"),
        (".data/version", b"99"),
    ],
)
def test_a_file_of_another_version_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path, member: str, content: bytes
) -> None:
    with pytest.raises(ArtifactError, match=r"it\.pt2"):
        session.load(write(tmp_path / "it.pt2", {**members, member: content}))


def test_what_a_later_torch_wrote_says_so(
    session: hopyard.Session, members: Members, tmp_path: Path
) -> None:
    later = edited(members[GRAPH], lambda data: data["schema_version"].update(major=99))
    manifest = edited(members["extra/hopyard.json"], lambda data: data.update(torch="99.0"))
    changed = {**members, GRAPH: later, "extra/hopyard.json": manifest}
    with pytest.raises(ArtifactError) as raised:
        session.load(write(tmp_path / "it.pt2", changed))
    assert "torch 99.0" in raised.value.hint
    assert str(torch.__version__) in raised.value.hint


def test_what_a_later_minor_version_adds_is_not_dropped_in_silence(
    session: hopyard.Session, members: Members, tmp_path: Path, program: Program
) -> None:
    """A later version is read as far as it says nothing that this one does not know."""

    def add(data: Any) -> None:
        data["graph_module"]["graph"]["nodes"][0]["stream"] = 7

    later = edited(members[GRAPH], lambda data: data["schema_version"].update(minor=10**6))
    given = torch.randn(2, 3)
    loaded = session.load(write(tmp_path / "it.pt2", {**members, GRAPH: later}))
    torch.testing.assert_close(loaded(2, given), program(2, given))
    with pytest.raises(ArtifactError, match="Node has no field 'stream'") as raised:
        session.load(write(tmp_path / "it.pt2", {**members, GRAPH: edited(later, add)}))
    assert "damaged" in raised.value.hint


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("graph_module", "graph", "nodes"), {}),
        (("graph_module", "graph", "nodes"), None),
        (("graph_module", "graph", "nodes", 0), []),
        (("graph_module", "graph", "nodes", 0, "target"), 3),
        (("graph_module", "graph", "nodes", 0, "inputs"), [{"as_int": 3}]),
        (("graph_module", "graph", "is_single_tensor_return"), 0),
        (("graph_module", "signature", "input_specs", 0), {}),
        (("graph_module", "signature", "input_specs", 0), {"user_input": {}, "token": {}}),
        (("graph_module", "signature", "input_specs", 0), {"other": {}}),
        (("opset_version", "aten"), "10"),
        (("range_constraints",), []),
    ],
)
def test_a_description_of_another_form_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path, where: tuple[Any, ...], value: Any
) -> None:
    def edit(data: Any) -> None:
        for step in where[:-1]:
            data = data[step]
        data[where[-1]] = value

    changed = {**members, GRAPH: edited(members[GRAPH], edit)}
    with pytest.raises(ArtifactError, match="cannot read"):
        session.load(write(tmp_path / "it.pt2", changed))


@pytest.mark.parametrize(
    "change",
    [
        {"sizes": [{"as_int": 1000}, {"as_int": 1000}]},
        {"strides": [{"as_int": -1}, {"as_int": 1}]},
        {"storage_offset": {"as_int": 10**6}},
        {"dtype": 99},
        {"dtype": 8},
        {"sizes": 3},
        {"device": {"type": "none", "index": None}},
    ],
)
def test_a_tensor_that_is_not_in_the_file_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path, change: Any
) -> None:
    def edit(data: Any) -> None:
        data["config"]["linear.weight"]["tensor_meta"].update(change)

    changed = {**members, WEIGHTS: edited(members[WEIGHTS], edit)}
    with pytest.raises(ArtifactError, match="cannot read"):
        session.load(write(tmp_path / "it.pt2", changed))


def test_a_file_cut_anywhere_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.pt2", members).read_bytes()
    path = tmp_path / "it.pt2"
    directory = good.rindex(b"PK\x01\x02")
    for length in (*range(0, directory, 97), *range(directory, len(good))):
        path.write_bytes(good[:length])
        with pytest.raises(ArtifactError, match=r"it\.pt2"):
            session.load(path)


def test_the_format_of_older_versions_is_refused(
    session: hopyard.Session, tmp_path: Path, mark: Path, members: Members
) -> None:
    path = tmp_path / "old.pt2"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("version", "8.1")
        archive.writestr("serialized_exported_program.json", members[GRAPH])
        archive.writestr("serialized_state_dict.pt", torch_pickle(Payload(mark)))
        archive.writestr("serialized_constants.pt", torch_pickle(Payload(mark)))
        archive.writestr("old/extra/hopyard.json", members["extra/hopyard.json"])
    with pytest.raises(ArtifactError):
        session.load(path)
    assert not mark.exists()


def test_a_file_that_changes_while_it_is_read_is_read_once(
    session: hopyard.Session,
    members: Members,
    tmp_path: Path,
    mark: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write(tmp_path / "it.pt2", members)
    evil = write(tmp_path / "evil.pt2", PICKLES["sample inputs"](members, Payload(mark)))
    read = _artifact.read_archive

    def swap(*args: Any) -> Any:
        os.replace(evil, path)
        return read(*args)

    monkeypatch.setattr(_artifact, "read_archive", swap)
    session.load(path)
    assert not mark.exists()


def test_a_file_of_another_origin_is_told_apart(session: hopyard.Session, tmp_path: Path) -> None:
    path = tmp_path / "theirs.pt2"
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.ones(1, 2),)), path)
    with pytest.raises(ArtifactError, match="not saved by hopyard") as raised:
        session.load(path)
    assert "torch.export.load" in raised.value.hint
    with zipfile.ZipFile(tmp_path / "empty.pt2", "w"):
        pass
    with pytest.raises(ArtifactError, match="not saved by hopyard"):
        session.load(tmp_path / "empty.pt2")


def test_a_damaged_file_is_an_error_of_its_own(
    session: hopyard.Session, members: Members, tmp_path: Path
) -> None:
    good = write(tmp_path / "good.pt2", members).read_bytes()
    path = tmp_path / "it.pt2"
    numbers = random.Random(1)
    damaged = [b"", b"PK", numbers.randbytes(1000), *(good[: len(good) * k // 8] for k in range(8))]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=r"it\.pt2"):
            session.load(path)


def test_a_flipped_byte_is_noticed_or_harmless(
    session: hopyard.Session, members: Members, tmp_path: Path, program: Program
) -> None:
    good = write(tmp_path / "good.pt2", members).read_bytes()
    path, given = tmp_path / "it.pt2", torch.ones(2, 3)
    numbers = random.Random(2)
    refused = 0
    for _ in range(60):
        content = bytearray(good)
        content[numbers.randrange(len(good))] ^= 1 << numbers.randrange(8)
        path.write_bytes(content)
        try:
            loaded = session.load(path)
        except ArtifactError:
            refused += 1
        else:
            torch.testing.assert_close(loaded(2, given), program(2, given))
    assert refused > 20


@pytest.mark.parametrize(
    "missing", [GRAPH, WEIGHTS, CONSTANTS, "archive_format", "data/weights/weight_0"]
)
def test_a_missing_member_is_damage(
    session: hopyard.Session, members: Members, tmp_path: Path, missing: str
) -> None:
    fewer = {name: content for name, content in members.items() if name != missing}
    with pytest.raises(ArtifactError, match="cannot read"):
        session.load(write(tmp_path / "it.pt2", fewer))


NO_SIZES: list[Any] = [-1, 1.5, True, "3", None, 2**40, 2**70]


@pytest.mark.parametrize(
    ("key", "size"),
    [
        ("sizes", 0),
        *itertools.product(("sizes", "strides", "storage_offset"), NO_SIZES),
    ],
)
def test_a_tensor_that_the_graph_was_not_made_for_is_damage(
    session: hopyard.Session, members: Members, tmp_path: Path, key: str, size: Any
) -> None:
    def edit(data: Any) -> None:
        meta = data["config"]["linear.weight"]["tensor_meta"]
        meta[key] = {"as_int": size} if key == "storage_offset" else [{"as_int": size}] * 2

    other = {**members, WEIGHTS: edited(members[WEIGHTS], edit)}
    with pytest.raises(ArtifactError, match="cannot read"):
        session.load(write(tmp_path / "it.pt2", other))


@pytest.mark.parametrize("name", ["extra/../../x", "extra/a/b", "extra/..", "extra/", "extra/a\\b"])
def test_a_member_beside_the_others_is_a_plain_name(
    session: hopyard.Session, members: Members, tmp_path: Path, name: str
) -> None:
    with pytest.raises(ArtifactError, match="no member that hopyard writes"):
        session.load(write(tmp_path / "it.pt2", {**members, name: b"x"}))


def test_a_program_that_updates_statistics_is_read_as_it_was(
    session: hopyard.Session, tmp_path: Path
) -> None:
    for pre_dispatch in (False, True):
        norm = torch.nn.BatchNorm1d(3)
        program = session.capture(norm, (torch.randn(4, 3),), pre_dispatch=pre_dispatch)
        program.save(tmp_path / "it.pt2")
        assert session.load(tmp_path / "it.pt2") == program


@pytest.mark.parametrize(
    "manifest",
    [
        b"",
        b"{}",
        b"[]",
        b'{"format": 2}',
        b'{"format": 1}',
        b'"x"',
        b"\xff",
        b'{"format": 1, "hops": 3}',
    ],
)
def test_a_manifest_of_another_format_is_refused(
    session: hopyard.Session, members: Members, tmp_path: Path, manifest: bytes
) -> None:
    changed = {**members, "extra/hopyard.json": manifest}
    with pytest.raises(ArtifactError, match="manifest") as raised:
        session.load(write(tmp_path / "it.pt2", changed))
    assert "later version" in raised.value.hint


def test_there_is_no_file(session: hopyard.Session, tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt2", tmp_path):
        with pytest.raises(ArtifactError, match="no file"):
            session.load(path)


DOUBLE = Hop("test_artifact__twice")


class DoublePlugin:
    """Registers a region operator."""

    @hookimpl
    def hopyard_register_hops(self) -> list[Hop]:
        return [DOUBLE]


def test_a_missing_plugin_is_named_with_its_distribution(
    session: hopyard.Session, tmp_path: Path
) -> None:
    with_plugin = hopyard.Session(discover=False, plugins=[DoublePlugin()])
    twice = with_plugin.hop("test_artifact__twice")
    program = with_plugin.capture(lambda a: twice(lambda b: b * 2, a), (torch.ones(2),))
    path = tmp_path / "it.pt2"
    program.save(path)
    assert with_plugin.load(path)(torch.ones(2)).tolist() == [2, 2]
    with pytest.raises(UnknownNameError) as raised:
        session.load(path)
    assert raised.value.name == "test_artifact__twice"
    assert raised.value.distribution == "hopyard-test-artifact"


def test_stock_torch_reads_what_is_saved(program: Program, tmp_path: Path) -> None:
    path, given = tmp_path / "it.pt2", torch.randn(2, 3)
    program.save(path)
    extra = {"hopyard.json": ""}
    exported = torch.export.load(path, extra_files=extra)
    torch.testing.assert_close(exported.module(check_guards=False)(2, given), program(2, given))
    assert json.loads(extra["hopyard.json"])["format"] == 1


@pytest.mark.parametrize(
    "name", ["plain.pt2", "no-suffix", "two.dots.pt2", "späce ☃.pt2", "x" * 200 + ".pt2"]
)
@pytest.mark.parametrize("kind", [str, Path])
def test_any_path_will_do(
    session: hopyard.Session, program: Program, tmp_path: Path, name: str, kind: type
) -> None:
    given = torch.randn(2, 3)
    program.save(kind(tmp_path / name))
    torch.testing.assert_close(session.load(kind(tmp_path / name))(2, given), program(2, given))
    assert [each.name for each in tmp_path.iterdir()] == [name]


def test_a_path_relative_to_the_working_folder(
    session: hopyard.Session, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    program.save("it.pt2")
    assert session.load("it.pt2").signature == program.signature
    assert hopyard.load("it.pt2").signature == program.signature


@pytest.mark.parametrize("failing", ["write", "close", "interrupt", "replace"])
def test_a_failing_save_leaves_the_old_file(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "it.pt2"
    path.write_bytes(b"the old bytes")
    write_archive = _artifact.write_archive

    def fail(target: str, exported: Any, beside: Any) -> None:
        if failing == "close":
            write_archive(target, exported, beside)
        else:
            Path(target).write_bytes(b"half")
        if failing == "interrupt":
            raise KeyboardInterrupt
        raise OSError("no space left")

    if failing == "replace":
        monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError("denied")))
    else:
        monkeypatch.setattr(_artifact, "write_archive", fail)
    with pytest.raises(KeyboardInterrupt if failing == "interrupt" else ArtifactError):
        program.save(path)
    assert path.read_bytes() == b"the old bytes"
    assert list(tmp_path.iterdir()) == [path]


KILLED = """
import os, signal, sys, torch, hopyard
from hopyard.program import _artifact

def write_archive(target, exported, beside):
    open(target, "wb").write(b"half")
    os.kill(os.getpid(), signal.SIGTERM)

_artifact.write_archive = write_archive
program = hopyard.Session(discover=False).capture(torch.relu, (torch.ones(2),))
program.save(sys.argv[1])
"""


def test_what_a_killed_save_leaves_behind_is_removed_by_the_next(
    program: Program, tmp_path: Path
) -> None:
    path = tmp_path / "it.pt2"
    path.write_bytes(b"the old bytes")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert done.returncode == -signal.SIGTERM
    assert path.read_bytes() == b"the old bytes"
    (left,) = set(tmp_path.iterdir()) - {path}
    program.save(path)
    assert left.exists(), "it might be one that was just made"
    os.utime(left, (0, 0))
    program.save(path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_save_is_still_writing_stays(program: Program, tmp_path: Path) -> None:
    folder, other, link = (tmp_path / name for name in (".hopyard-x", "y", ".hopyard-z"))
    folder.mkdir()
    other.mkdir()
    link.symlink_to(other)
    with in_use(folder):
        os.utime(folder, (0, 0))
        program.save(tmp_path / "it.pt2")
        assert folder.exists()
    os.utime(folder, (0, 0))
    os.utime(other, (0, 0))
    program.save(tmp_path / "it.pt2")
    assert {each.name for each in tmp_path.iterdir()} == {"it.pt2", "y", ".hopyard-z"}


def test_a_folder_that_is_not_there(program: Program, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as raised:
        program.save(tmp_path / "none" / "it.pt2")
    assert raised.value.stage == "save"
    with pytest.raises(ArtifactError):
        program.save(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [slice(1, 2), b"bytes", (1).__add__], ids=type)
def test_a_value_that_no_file_can_hold_is_refused_when_saving(
    session: hopyard.Session, tmp_path: Path, value: Any
) -> None:
    program = session.capture(lambda a, b: a + 1, (torch.ones(2), value))
    assert program(torch.ones(2), value).tolist() == [2, 2]
    with pytest.raises(ArtifactError, match="takes"):
        program.save(tmp_path / "it.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "value",
    [
        *(0.5, float("inf"), -3, True, None, 2**70, 1 + 2j, complex("nan"), "text", ""),
        *(torch.float32, torch.strided, torch.channels_last, torch.device("cpu")),
    ],
    ids=repr,
)
def test_plain_results_are_kept(session: hopyard.Session, tmp_path: Path, value: Any) -> None:
    program = session.capture(lambda a, b: (a + 1, value), (torch.ones(2), value))
    program.save(tmp_path / "it.pt2")
    result = session.load(tmp_path / "it.pt2")(torch.ones(2), value)[1]
    assert type(result) is type(value)
    assert repr(result) == repr(value)


def test_plain_dictionaries_with_defaults_are_read(
    session: hopyard.Session, tmp_path: Path
) -> None:
    def forward(a: Tensor) -> Any:
        result: Any = defaultdict(list)
        result["a"] = OrderedDict(b=a + 1, c=[a, (a,)])
        return result

    program = session.capture(forward, (torch.ones(2),))
    program.save(tmp_path / "it.pt2")
    result = session.load(tmp_path / "it.pt2")(torch.ones(2))
    assert result["missing"] == []
    assert list(result["a"]) == ["b", "c"]


class Colour(Enum):
    RED = 1


def test_what_would_not_be_read_is_not_written(session: hopyard.Session, tmp_path: Path) -> None:
    program = session.capture(lambda a: {Colour.RED: a + 1}, (torch.ones(2),))
    assert program(torch.ones(2))[Colour.RED].tolist() == [2, 2]
    with pytest.raises(ProgramError):
        program.save(tmp_path / "it.pt2")
    assert list(tmp_path.iterdir()) == []


def test_threads_may_save_and_load_at_the_same_time(
    session: hopyard.Session, program: Program, tmp_path: Path
) -> None:
    path, given = tmp_path / "it.pt2", torch.randn(2, 3)
    expected = program(2, given)
    program.save(path)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                program.save(path)
                torch.testing.assert_close(session.load(path)(2, given), expected)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert list(tmp_path.iterdir()) == [path]


def test_loading_does_not_disturb(
    session: hopyard.Session, program: Program, tmp_path: Path
) -> None:
    program.save(tmp_path / "it.pt2")
    torch.manual_seed(4)
    before = torch.get_rng_state()
    with torch.no_grad():
        session.load(tmp_path / "it.pt2")
        assert not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loaded_program_is_saved_again(
    session: hopyard.Session, program: Program, tmp_path: Path
) -> None:
    given = torch.randn(2, 3)
    program.save(tmp_path / "first.pt2")
    session.load(tmp_path / "first.pt2").save(tmp_path / "second.pt2")
    again = session.load(tmp_path / "second.pt2")
    torch.testing.assert_close(again(2, given), program(2, given))
    assert str(again.graph) == str(program.graph)
    assert again.manifest.plugins == program.manifest.plugins


def test_a_new_process_reads_it(program: Program, tmp_path: Path) -> None:
    path, given = tmp_path / "it.pt2", torch.randn(2, 3)
    program.save(path)
    torch.save((given, program(2, given)["y"].detach()), tmp_path / "values.pt")
    code = """
import sys, torch, hopyard
given, expected = torch.load(sys.argv[2])
torch.testing.assert_close(hopyard.load(sys.argv[1])(2, given)["y"].detach(), expected)
"""
    command = [sys.executable, "-W", "error", "-c", code, str(path), str(tmp_path / "values.pt")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


class Pair:
    def __init__(self, *items: Tensor) -> None:
        self.items = items


def test_a_container_that_is_not_registered_here_is_named(
    session: hopyard.Session, tmp_path: Path
) -> None:
    pytree.register_pytree_node(
        Pair,
        lambda pair: (list(pair.items), None),
        lambda items, _: Pair(*items),
        serialized_type_name="some.package.Pair",
    )
    try:
        program = session.capture(lambda a: Pair(a, a + 1), (torch.ones(2),))
        program.save(tmp_path / "it.pt2")
        assert session.load(tmp_path / "it.pt2")(torch.ones(2)).items[1].tolist() == [2, 2]
    finally:
        pytree._deregister_pytree_node(Pair)
    with pytest.raises(ArtifactError, match=r"some\.package\.Pair") as raised:
        session.load(tmp_path / "it.pt2")
    assert "some.package," in raised.value.hint
