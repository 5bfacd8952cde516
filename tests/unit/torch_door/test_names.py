"""Every name that enters through the door to private torch exists and does what we rely on.

After an upgrade of torch this file says what has moved. A new name needs a check here.
"""

from __future__ import annotations

import importlib
import io
import json
import pkgutil
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor, fx, nn
from torch._library.opaque_object import OpaqueBase, register_opaque_type
from torch.fx.experimental.proxy_tensor import make_fx as torch_make_fx
from torch.testing._internal.torchbind_impls import init_torchbind_implementations

from hopyard import _torch as door
from hopyard._torch import (
    archives,
    backends,
    compiler,
    dispatch,
    dynamo,
    exporting,
    fake,
    flops,
    functional,
    graphs,
    inductor,
    objects,
    predispatch,
    provenance,
    proxies,
    pytree,
    symbolic,
)
from hopyard.program._schema import plain

aten = torch.ops.aten

MODULES: dict[str, ModuleType] = {
    found.name: importlib.import_module(f"{door.__name__}.{found.name}")
    for found in pkgutil.iter_modules(door.__path__)
}
NAMES = [f"{module}.{name}" for module in MODULES for name in MODULES[module].__all__]
CHECKS: dict[str, Callable[[], None]] = {}


def check(*names: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def register(function: Callable[[], None]) -> Callable[[], None]:
        CHECKS.update(dict.fromkeys(names, function))
        return function

    return register


@pytest.mark.parametrize("name", NAMES)
def test_it_does_what_we_rely_on(name: str) -> None:
    module, _, attribute = name.partition(".")
    assert getattr(MODULES[module], attribute) is not None
    assert name in CHECKS, f"say in {__file__} what we rely on"
    CHECKS[name]()


@pytest.mark.parametrize("name", CHECKS)
def test_what_is_checked_is_still_offered(name: str) -> None:
    assert name in NAMES


@pytest.mark.parametrize("module", MODULES)
def test_all_says_what_a_module_offers(module: str) -> None:
    offered = MODULES[module].__all__
    assert list(offered) == sorted(
        offered, key=lambda name: (not name.isupper(), name[0].islower(), name)
    )
    public = {name for name in vars(MODULES[module]) if not name.startswith("_")}
    assert public - {"annotations"} == set(offered)


class Seen(dispatch.TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.operators: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.append(func)
        return func(*args, **(kwargs or {}))


class Slotted(Seen):
    """A mode in the slot of tracers."""

    def __init__(self) -> None:
        super().__init__()
        self._mode_key = dispatch.PROXY_SLOT

    @classmethod
    def is_infra_mode(cls) -> bool:
        return True


# dispatch


@check("dispatch.PROXY_SLOT", "dispatch.push_mode", "dispatch.unset_infra_mode")
def _slot() -> None:
    with Slotted() as mode:
        torch.ones(1)
        taken = dispatch.unset_infra_mode(dispatch.PROXY_SLOT)
        assert taken is mode
        torch.zeros(1)
        assert dispatch.unset_infra_mode(dispatch.PROXY_SLOT) is None
        dispatch.push_mode(mode)
        torch.ones(1)
    assert [func.overloadpacket for func in mode.operators] == [aten.ones, aten.ones]


@check("dispatch.TorchDispatchMode", "dispatch.current_dispatch_mode")
@check("dispatch.dispatch_mode_count", "dispatch.dispatch_mode_stack")
def _modes() -> None:
    assert dispatch.current_dispatch_mode() is None
    with Seen() as outer, Slotted() as slotted, Seen() as inner:
        assert dispatch.dispatch_mode_count() == 3
        # Modes of torch's own kind lie below all others.
        assert dispatch.dispatch_mode_stack() == [slotted, outer, inner]
        assert dispatch.current_dispatch_mode() is inner
        torch.ones(1)
    assert [len(mode.operators) for mode in (outer, slotted, inner)] == [1, 1, 1]
    assert dispatch.dispatch_mode_count() == 0


@check("dispatch.function_mode_stack")
def _function_modes() -> None:
    assert dispatch.function_mode_stack() == []
    with torch.overrides.BaseTorchFunctionMode() as mode:
        assert dispatch.function_mode_stack() == [mode]


@check("dispatch.disable_torch_dispatch")
def _without_dispatch() -> None:
    with Seen() as mode, dispatch.disable_torch_dispatch():
        torch.ones(1)
    assert mode.operators == []


@check("dispatch.disable_torch_function")
def _without_functions() -> None:
    class Refuses(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, *call: Any) -> Any:
            raise LookupError

    with Refuses():
        with dispatch.disable_torch_function():
            assert torch.ones(1).shape == (1,)
        with pytest.raises(LookupError):
            torch.ones(1)


@check("dispatch.below_autograd")
def _below_autograd() -> None:
    x = torch.ones(1, requires_grad=True)
    with dispatch.below_autograd():
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


@check("dispatch.HopSchemaGenerator")
def _hop_schema() -> None:
    generator = dispatch.HopSchemaGenerator(torch.ops.higher_order.cond)
    generator.add_arg("operand", torch.ones(1), is_mutated=True)
    generator.add_output(torch.ones(1))
    (argument,) = generator.gen_schema().arguments
    assert argument.is_write


@check("dispatch.dispatch_keys_of")
def _dispatch_keys() -> None:
    x = torch.ones(1)
    every = torch._C._dispatch_keyset_full()
    assert "Autograd" in dispatch.dispatch_keys_of([x], every).highestPriorityTypeId().name
    with dispatch.below_autograd(), fake.FakeTensorMode():
        found = dispatch.dispatch_keys_of([x], every).highestPriorityTypeId()
    assert found == dispatch.DispatchKey.PythonTLSSnapshot


@check("proxies.run_with_notes")
def _runs_with_notes() -> None:
    graph_module = fx.symbolic_trace(lambda x: x.sin())
    assert proxies.run_with_notes(graph_module) is graph_module
    assert proxies.run_with_notes(torch.sin) is torch.sin
    with fx.traceback.preserve_node_meta():
        run = proxies.run_with_notes(graph_module)
    assert run is not graph_module
    assert run(torch.zeros(1)).equal(torch.zeros(1))


@check("dispatch.is_dispatch_key_excluded")
def _excluded_keys() -> None:
    key = dispatch.DispatchKey.AutogradFunctionality
    assert not dispatch.is_dispatch_key_excluded(key)
    with dispatch.below_autograd():
        assert dispatch.is_dispatch_key_excluded(key)


@check("dispatch.without_autocast")
def _without_autocast() -> None:
    x = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with dispatch.without_autocast():
            assert (x @ x).dtype is torch.float32
        assert (x @ x).dtype is torch.bfloat16


@check("dispatch.keep_from_dynamo")
def _kept_from_dynamo() -> None:
    compiled: list[Any] = []

    def count(graph_module: Any, inputs: Any) -> Any:
        compiled.append(graph_module)
        return graph_module.forward

    def inside(x: Tensor) -> Tensor:
        return x + 1

    def outside(x: Tensor) -> Tensor:
        return inside(x) * 2

    dispatch.keep_from_dynamo(outside)
    assert torch.compile(outside, backend=count)(torch.ones(1)).tolist() == [4]
    assert compiled == []


@check("dispatch.DispatchKey")
def _keys() -> None:
    key = dispatch.DispatchKey
    assert len({key.Python, key.Autograd, key.CompositeExplicitAutograd}) == 3


@check("dispatch.included_dispatch_keys", "dispatch.excluded_dispatch_keys")
def _key_sets() -> None:
    before = dispatch.excluded_dispatch_keys().raw_repr()
    with dispatch.below_autograd():
        assert dispatch.excluded_dispatch_keys().raw_repr() != before
    assert dispatch.excluded_dispatch_keys().raw_repr() == before
    assert isinstance(dispatch.included_dispatch_keys().raw_repr(), int)


@check("dispatch.preserve_dispatch_keys", "dispatch.use_meta_kernels")
def _meta_kernels() -> None:
    before = dispatch.included_dispatch_keys().raw_repr()
    with dispatch.preserve_dispatch_keys():
        dispatch.use_meta_kernels(True)
        assert dispatch.included_dispatch_keys().raw_repr() != before
    assert dispatch.included_dispatch_keys().raw_repr() == before


@check("dispatch.is_any_autocast_enabled")
def _autocast() -> None:
    assert not dispatch.is_any_autocast_enabled()
    with torch.autocast("cpu"):
        assert dispatch.is_any_autocast_enabled()


@check("dispatch.TransformType", "dispatch.current_transform", "dispatch.is_transformed")
@check("dispatch.untransformed")
def _transforms() -> None:
    assert dispatch.current_transform() is None
    seen: list[Any] = []

    def function(x: Tensor) -> Tensor:
        current = dispatch.current_transform()
        assert dispatch.is_transformed(x)
        assert not dispatch.is_transformed(dispatch.untransformed(x))
        seen.append(current.key() if current else None)
        return x.sum()

    torch.vmap(function)(torch.ones(2))
    torch.func.grad(function)(torch.ones(2))
    with warnings.catch_warnings():
        # torch's own rules for forward gradients are scripted, which it has deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(function, (torch.ones(2),), (torch.ones(2),))
    kinds = dispatch.TransformType
    assert seen == [kinds.Vmap, kinds.Grad, kinds.Jvp]
    assert not dispatch.is_transformed(torch.ones(1))


@check("dispatch.HigherOrderOperator", "dispatch.higher_order_operators")
def _higher_order() -> None:
    class Named(dispatch.HigherOrderOperator):
        def __call__(self, *args: Any) -> Any:
            return super().__call__(*args)

    try:
        named = Named("door_tests__named")
        assert dispatch.higher_order_operators["door_tests__named"] is named
        assert torch.ops.higher_order.door_tests__named is named
        assert named.name() == "door_tests__named"
        assert named.py_kernels == {}
        assert named.python_key_table == {}
        for method in ("py_impl", "py_functionalize_impl", "dispatch", "_get_overloaded_args"):
            assert callable(getattr(named, method))
    finally:
        del dispatch.higher_order_operators["door_tests__named"]
        # What is read once as an attribute stays one.
        vars(torch.ops.higher_order).pop("door_tests__named", None)
    cond = dispatch.higher_order_operators["cond"]
    assert isinstance(cond, dispatch.HigherOrderOperator)


@check("dispatch.OpOverload", "dispatch.OpOverloadPacket")
def _operators() -> None:
    operator = aten.add.Tensor
    assert isinstance(operator, dispatch.OpOverload)
    assert isinstance(aten.add, dispatch.OpOverloadPacket)
    assert operator.overloadpacket is aten.add
    assert operator.overloadpacket.__name__ == "add"
    assert operator.namespace == "aten"
    assert torch.Tag.data_dependent_output in aten._local_scalar_dense.default.tags
    assert torch.Tag.inplace_view in aten.t_.default.tags
    assert torch.Tag.nondeterministic_seeded in aten.bernoulli.default.tags
    assert [argument.is_out for argument in aten.add.out._schema.arguments][-1]
    assert not any(argument.is_out for argument in aten.add_.Tensor._schema.arguments)


@check("dispatch.internal_overlap")
def _overlaps() -> None:
    assert dispatch.internal_overlap(torch.ones(2, 3).t()) == 0
    assert dispatch.internal_overlap(torch.ones(3).expand(2, 3)) == 1


@check("dispatch.autograd_would_have_decomposed")
def _decomposes() -> None:
    x = torch.ones(2)
    assert dispatch.autograd_would_have_decomposed(aten.reshape.default, [x, [2]])
    assert not dispatch.autograd_would_have_decomposed(aten.sin.default, [x])
    assert aten.reshape.default.decompose(x, [2, 1]).shape == (2, 1)


@check("dispatch.registered_kernels")
def _kernels() -> None:
    before = len(dispatch.registered_kernels)
    with torch.library._scoped_library("door_tests", "FRAGMENT") as library:
        library.define("nothing(Tensor x) -> Tensor")
        library.impl("nothing", lambda x: x.clone(), "CPU")
        assert len(dispatch.registered_kernels) == before + 1


@check("dispatch.set_grad_enabled")
def _grad_mode() -> None:
    dispatch.set_grad_enabled(False)
    try:
        assert not torch.is_grad_enabled()
    finally:
        dispatch.set_grad_enabled(True)


# fake


@check("fake.FakeTensorMode", "fake.FakeTensor", "fake.is_fake")
def _fake_tensors() -> None:
    mode = fake.FakeTensorMode(allow_fallback_kernels=True, static_shapes=True)
    real = torch.ones(2, 3, requires_grad=True)
    value = mode.from_tensor(real, static_shapes=True)
    assert type(value) is fake.FakeTensor
    assert value.fake_mode is mode
    assert value.requires_grad
    assert mode.from_tensor(real, static_shapes=True) is value
    assert fake.is_fake(value)
    assert not fake.is_fake(real)
    with mode:
        assert type(torch.ones(1)) is fake.FakeTensor
    assert isinstance(mode.cache_enabled, bool)
    assert mode.shape_env is None
    assert mode.in_kernel_invocation is False
    assert isinstance(mode._allow_unsafe_data_ptr_access, bool)


@check("fake.DataDependentOutputException", "fake.DynamicOutputShapeException")
def _data_dependent() -> None:
    with fake.FakeTensorMode():
        x = torch.ones(2)
        with pytest.raises(fake.DataDependentOutputException) as raised:
            x[0].item()
        assert raised.value.func is aten._local_scalar_dense.default
        with pytest.raises(fake.DynamicOutputShapeException) as raised_shape:
            x.nonzero()
        assert raised_shape.value.func is aten.nonzero.default


@check("fake.UnsupportedOperatorException")
def _unsupported() -> None:
    with torch.library._scoped_library("door_tests", "FRAGMENT") as library:
        library.define("unknown(Tensor x) -> Tensor")
        library.impl("unknown", lambda x: x.clone(), "CPU")
        with fake.FakeTensorMode(), pytest.raises(fake.UnsupportedOperatorException):
            torch.ops.door_tests.unknown(torch.ones(1))


@check("fake.detect_fake_mode")
def _detection() -> None:
    assert fake.detect_fake_mode([torch.ones(1), 3]) is None
    mode = fake.FakeTensorMode()
    assert fake.detect_fake_mode([mode.from_tensor(torch.ones(1))]) is mode
    with mode:
        assert fake.detect_fake_mode([]) is mode


@check("fake.fast_detach")
def _detached() -> None:
    mode = fake.FakeTensorMode()
    value = mode.from_tensor(torch.ones(2, 3, requires_grad=True))
    detached = fake.fast_detach(mode, value)
    assert type(detached) is fake.FakeTensor
    assert not detached.requires_grad
    assert detached.untyped_storage() is value.untyped_storage()
    value = value.detach()
    detached = fake.fast_detach(mode, value)
    value.t_()
    assert detached.shape == (2, 3)


@check("fake.fast_implementations")
def _() -> None:
    shortcuts = fake.fast_implementations()
    assert shortcuts[aten.detach.default] is fake.fast_detach
    mode = fake.FakeTensorMode(shape_env=symbolic.ShapeEnv())
    value = mode.from_tensor(torch.ones(2, 3))
    total = shortcuts[aten.add.Tensor](mode, value, value)
    assert type(total) is fake.FakeTensor
    assert total.shape == value.shape


@check("fake.forbid_data_access")
def _forbidden() -> None:
    with dispatch.disable_torch_dispatch():
        tensor = torch.empty(1, device="meta")
        fake.forbid_data_access(tensor)
    # It is the storage that keeps it.
    for sharing in (tensor, tensor.detach(), tensor[:0]):
        with pytest.raises(RuntimeError):
            sharing.data_ptr()


@check(
    "fake.decomposition_table",
    "fake.meta_table",
    "fake.is_decomposed_when_fake",
)
def _ways_of_the_fake_mode() -> None:
    assert aten.addmm.default in fake.decomposition_table
    assert aten.addmm.default not in fake.meta_table
    assert fake.is_decomposed_when_fake(aten.addmm.default)
    assert aten.mm.default in fake.meta_table
    assert not fake.is_decomposed_when_fake(aten.mul.Tensor)
    mode = fake.FakeTensorMode()
    assert mode.cpp_meta_supports_symint(aten.detach.default)
    assert not mode.cpp_meta_supports_symint(aten.addmm.default)
    assert mode.propagate_real_tensors is False
    x = mode.from_tensor(torch.ones(2))
    assert (x.constant, x.fake_device) == (None, torch.device("cpu"))


@check("fake.fake_rules", "fake.fake_rules_by_kind")
def _rules_of_the_fake_mode() -> None:
    mode = fake.FakeTensorMode()
    x = mode.from_tensor(torch.ones(2, 3))
    assert fake.fake_rules[aten.view.default](mode, aten.view.default, x, [6]).shape == (6,)
    assert [rule for applies, rule in fake.fake_rules_by_kind if applies(aten._foreach_abs.default)]
    assert [rule for applies, rule in fake.fake_rules_by_kind if applies(aten.view.default)]
    assert not [rule for applies, rule in fake.fake_rules_by_kind if applies(aten.mm.default)]


@check("fake.is_tensor_constructor", "fake.like_constructors")
def _constructors() -> None:
    assert fake.is_tensor_constructor(aten.zeros.default)
    assert not fake.is_tensor_constructor(aten.zeros_like.default)
    assert aten.zeros_like.default in fake.like_constructors


@check("fake.has_fake_kernel")
def _fake_kernels() -> None:
    with torch.library._scoped_library("hopyard_names", "DEF") as library:
        library.define("same(Tensor x) -> Tensor")
        operator = torch.ops.hopyard_names.same.default
        assert not fake.has_fake_kernel(operator)
        torch.library.register_fake("hopyard_names::same", torch.empty_like, lib=library)
        assert fake.has_fake_kernel(operator)
    assert not fake.has_fake_kernel(aten.mm.default)


@check("fake.reinterpret")
def _shared() -> None:
    mode = fake.FakeTensorMode()
    whole = mode.from_tensor(torch.ones(4, 6))
    source = whole[1:]
    with dispatch.disable_torch_dispatch():
        element = fake.reinterpret(source, (3, 2), (6, 1), 2)
        part = fake.make_subclass(
            fake.FakeTensor,
            element,
            False,
            dispatch_device=True,
            device_for_backend_keys=torch.device("cpu"),
        )
    expected = source[:, 2:4]
    assert (part.shape, part.stride()) == (expected.shape, expected.stride())
    assert part.storage_offset() == expected.storage_offset() == 8
    assert part.untyped_storage()._cdata == whole.untyped_storage()._cdata
    assert torch._C._dispatch_keys(part) == torch._C._dispatch_keys(expected)
    assert not part._is_view()


@check("fake.unset_fake_temporarily")
def _unset() -> None:
    with fake.FakeTensorMode() as mode:
        with fake.unset_fake_temporarily() as previous:
            assert previous is mode
            assert torch.ones(1).item() == 1
        assert type(torch.ones(1)) is fake.FakeTensor


# flops


@check("flops.flop_formulas")
def _formulas() -> None:
    formula = flops.flop_formulas[aten.mm]
    assert formula([2, 3], [3, 5], out_val=[2, 5]) == 60
    assert hasattr(formula, "__wrapped__")  # wants sizes
    assert not hasattr(flops.flop_formulas[aten._flash_attention_forward], "__wrapped__")


@check("flops.attention_flops", "flops.attention_backward_flops")
def _attention() -> None:
    sizes = ((2, 4, 5, 8), (2, 4, 7, 8), (2, 4, 7, 8))
    forward = flops.attention_flops(*sizes)
    assert forward == 2 * (2 * 4) * 5 * 7 * (8 + 8)
    assert 2 * flops.attention_backward_flops(sizes[0], *sizes) == 5 * forward


@check("exporting.autocast_to_regions", "exporting.grad_modes_to_regions")
def _modes_as_regions() -> None:
    def function(x: Tensor) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            y = x + 1
        return y * 2

    graph_module = torch_make_fx(function, pre_dispatch=True)(torch.ones(2))
    for to_regions in (exporting.grad_modes_to_regions, exporting.autocast_to_regions):
        graph_module, _ = to_regions(graph_module, None)
    names = [str(node.target) for node in graph_module.graph.nodes]
    assert "wrap_with_set_grad_enabled" in names
    assert not any("autocast" in name and "wrap" not in name for name in names)


@check("backends.LIBRARIES")
def _libraries() -> None:
    for is_on, switch in backends.LIBRARIES:
        before = is_on()
        switch(not before)
        assert is_on() is not before
        switch(before)
    flags = [torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled]
    assert [is_on() for is_on, _ in backends.LIBRARIES[::2]] == flags


@check("archives.DTYPES_IN_FILES")
def _dtypes() -> None:
    assert archives.DTYPES_IN_FILES[7] is torch.float32


@check(*(f"archives.{name}" for name in archives.__all__ if name != "DTYPES_IN_FILES"))
def _archives() -> None:
    """An archive written piece by piece says what torch's own says, and torch reads it."""
    exported = torch.export.export(nn.Linear(2, 3), (torch.ones(1, 2),), strict=False)
    theirs, ours = io.BytesIO(), io.BytesIO()
    torch.export.save(exported, theirs)
    writer = archives.GraphWriter(exported.graph_signature, exported.module_call_graph)
    major, minor = archives.SCHEMA_VERSION
    written = archives.WrittenProgram(
        graph_module=writer.serialize(exported.graph_module),
        opset_version={"aten": archives.operator_version()},
        range_constraints=archives.write_ranges(exported.range_constraints),
        schema_version=archives.SchemaVersion(major=major, minor=minor),
        verifiers=[verifier.dialect for verifier in exported.verifiers],
        torch_version=str(torch.__version__),
        guards_code=exported._guards_code,
    )
    with archives.ArchiveWriter(ours) as archive:
        entries = {}
        for index, (name, value) in enumerate(exported.state_dict.items()):
            storage = value.untyped_storage()
            member = f"data/weights/weight_{index}"
            archive.archive_file.write_record(member, storage, storage.nbytes())
            entries[name] = archives.TensorEntry(
                f"weight_{index}", True, False, archives.write_meta(value)
            )
        parts = {
            "data/weights/model_weights_config.json": archives.TensorEntries(entries),
            "data/constants/model_constants_config.json": archives.TensorEntries({}),
            "models/model.json": written,
        }
        for name, part in parts.items():
            archive.write_string(name, json.dumps(plain(part)))
        archive.write_bytes("data/sample_inputs/model.pt", b"")
    said = []
    for buffer in (theirs, ours):
        with zipfile.ZipFile(buffer) as file:
            root = file.namelist()[0].partition("/")[0]
            said.append({name: json.loads(file.read(f"{root}/{name}")) for name in parts})
            assert file.read(f"{root}/archive_format").decode() == archives.ARCHIVE_FORMAT
            assert file.read(f"{root}/archive_version").decode() == archives.ARCHIVE_VERSION
    assert said[0] == said[1]
    given = torch.ones(1, 2)
    ours.seek(0)
    torch.testing.assert_close(torch.export.load(ours).module()(given), exported.module()(given))
    result = archives.ProgramReader().deserialize(written, exported.state_dict, {})
    assert [node.target for node in result.graph.nodes][-1] == "output"
    assert issubclass(archives.SCHEMA_NAMES["Argument"], archives.Union)


# graphs


def chain() -> fx.GraphModule:
    class Chain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.tan(torch.cos(torch.sin(x)))

    return fx.symbolic_trace(Chain())


@check("graphs.fx_settings")
def _settings_of_fx() -> None:
    made = fx.GraphModule(nn.Module(), chain().graph)
    with graphs.fx_settings.patch(enrich_profiler_metadata=True):
        made.recompile()
    assert "_RecordFunctionFast" in made.code


@check("graphs.LazyGraphModule", "graphs.make_graph_module")
def _graph_modules() -> None:
    traced = chain()
    for make in (graphs.LazyGraphModule, graphs.make_graph_module):
        made = make(nn.Module(), traced.graph, "Made")
        assert isinstance(made, fx.GraphModule)
        assert type(made).__name__ == "Made"
        assert "sin" in made.code
        assert made(torch.ones(1)).equal(traced(torch.ones(1)))
        made.graph.output_node().args = (next(iter(made.graph.nodes)),)
        made.recompile()
        assert made(torch.ones(1)).equal(torch.ones(1))
        traced = chain()


@check("graphs.NodeBase")
def _node_base() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = fx.Node.__new__(fx.Node)
    graphs.NodeBase.__init__(node, graph, "y", "call_function", aten.sin.default, None)
    node._update_args_kwargs((x,), {})
    assert (node.name, node.args, node.kwargs, node.meta) == ("y", (x,), {}, {})
    assert list(x.users) == [node]


@check("graphs.map_nodes")
def _map_nodes() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    assert graphs.map_nodes((x, [x, 1], "a"), {x: y}.__getitem__) == (y, [y, 1], "a")


@check("graphs.TorchPassResult")
def _results_of_passes() -> None:
    from torch.fx.passes.infra.pass_manager import pass_result_wrapper

    result = graphs.TorchPassResult(fx.GraphModule(nn.Module(), fx.Graph()), modified=True)
    assert pass_result_wrapper(lambda _: result)(nn.Module()) is result
    assert (result[0] is result.graph_module, result.modified) == (True, True)


@check("graphs.PyTreeCodeGen", "graphs.PyTreeInfo")
def _calling_convention() -> None:
    graph = fx.Graph()
    x, y = graph.placeholder("x"), graph.placeholder("y")
    graph.output([graph.call_function(torch.add, (x, y))])
    _, in_spec = pytree.tree_flatten(([1, 2],))
    _, out_spec = pytree.tree_flatten({"sum": 1})
    graph.set_codegen(graphs.PyTreeCodeGen(graphs.PyTreeInfo(["pair"], in_spec, out_spec)))
    assert fx.GraphModule(nn.Module(), graph)([1, 2]) == {"sum": 3}


@check("graphs.TensorMetadata", "graphs.extract_tensor_metadata")
def _metadata() -> None:
    metadata = graphs.extract_tensor_metadata(torch.ones(2, 3).t())
    assert isinstance(metadata, graphs.TensorMetadata)
    assert (metadata.shape, metadata.stride, metadata.dtype) == ((3, 2), (1, 3), torch.float32)
    assert metadata._replace(requires_grad=True).requires_grad
    assert not metadata.requires_grad
    assert not metadata.is_quantized


# predispatch


@check("predispatch.PreDispatchModes", "predispatch.pre_dispatch_modes")
@check("predispatch.set_pre_dispatch_modes", "predispatch.is_dispatch_key_included")
def _pre_dispatch_modes() -> None:
    key = dispatch.DispatchKey.PreDispatch
    original = predispatch.pre_dispatch_modes()
    ours = predispatch.PreDispatchModes()
    assert ours.count() == 0
    assert ours.get(0) is ours.get(1) is ours._schema_check_mode is None
    found: list[Any] = []

    def function(x: Tensor) -> Tensor:
        found.extend((predispatch.is_dispatch_key_included(key), ours.count(), ours.get(0)))
        return x.sin()

    predispatch.set_pre_dispatch_modes(ours)
    try:
        torch_make_fx(function, pre_dispatch=True)(torch.ones(2))
    finally:
        predispatch.set_pre_dispatch_modes(original)
    assert predispatch.pre_dispatch_modes() is original
    assert found[:2] == [True, 1]
    assert isinstance(found[2], proxies.ProxyTorchDispatchMode)
    assert not predispatch.is_dispatch_key_included(key)


@check("predispatch.enable_python_dispatcher")
def _python_dispatcher() -> None:
    key = dispatch.DispatchKey.PythonDispatcher
    with predispatch.enable_python_dispatcher():
        assert predispatch.is_dispatch_key_included(key)
    assert not predispatch.is_dispatch_key_included(key)


class Told(predispatch.PreDispatchTorchFunctionMode):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append((func, tuple(args)))
        if func in (predispatch.enter_autocast, predispatch.exit_autocast):
            return None
        return func(*args, **(kwargs or {}))


@check("predispatch.PreDispatchTorchFunctionMode", "predispatch.hide_state_recorder")
@check("predispatch.enter_autocast", "predispatch.exit_autocast", "predispatch.UnmanagedAutocast")
def _told_of_autocast() -> None:
    with Told() as told:
        with torch.autocast("cpu", dtype=torch.bfloat16, cache_enabled=False):
            pass
        with predispatch.hide_state_recorder(), torch.autocast("cpu"):
            assert dispatch.function_mode_stack() == []
        assert dispatch.function_mode_stack() == [told]
    assert told.seen == [
        (predispatch.enter_autocast, ("cpu", torch.bfloat16, True, False)),
        (predispatch.exit_autocast, ()),
    ]
    unmanaged = predispatch.enter_autocast("cpu", torch.bfloat16, True, False)
    assert isinstance(unmanaged, predispatch.UnmanagedAutocast)
    assert torch.is_autocast_enabled("cpu")
    predispatch.exit_autocast(unmanaged)
    assert not torch.is_autocast_enabled("cpu")


@check("predispatch.FORWARD_AD_FUNCTIONS", "predispatch.TRANSFORM_FUNCTIONS")
@check("predispatch.is_dual_level_entered", "predispatch.disable_transforms")
def _told_of_transforms() -> None:
    entered: list[bool] = []
    disabled: list[bool] = []
    enabled: list[bool] = []

    def sine(x: Tensor) -> Tensor:
        entered.append(predispatch.is_dual_level_entered())
        with predispatch.disable_transforms():
            disabled.append(dispatch.is_transformed(torch.ones(2)))
        enabled.append(dispatch.is_transformed(torch.ones(2)))
        return x.sin()

    with Told() as told, mock.patch.object(torch.compiler, "_is_exporting_flag", True):
        x = torch.ones(2)
        torch.vmap(sine)(x)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.func.jvp(sine, (x,), (x,))
    called = {func for func, _ in told.seen} & predispatch.TRANSFORM_FUNCTIONS
    assert called == predispatch.TRANSFORM_FUNCTIONS
    assert predispatch.FORWARD_AD_FUNCTIONS < predispatch.TRANSFORM_FUNCTIONS
    assert entered == [False, True]
    assert enabled == [False, True]
    assert disabled == [False, False]
    assert not predispatch.is_dual_level_entered()


# proxies


@contextmanager
def in_torchs_tracer(function: Callable[[Tensor], Any]) -> Iterator[fx.GraphModule]:
    from torch.fx.experimental.proxy_tensor import make_fx

    yield make_fx(function)(torch.ones(2))


@check("proxies.torch_make_fx")
def _torch_make_fx() -> None:
    graph_module = proxies.torch_make_fx(torch.sin, tracing_mode="fake")(torch.ones(2))
    assert [node.op for node in graph_module.graph.nodes] == [
        "placeholder",
        "call_function",
        "output",
    ]


@check("proxies.ProxyTorchDispatchMode", "proxies.current_proxy_mode", "proxies.suspend_tracing")
def _proxy_mode() -> None:
    assert proxies.current_proxy_mode() is None

    def function(x: Tensor) -> Tensor:
        mode = proxies.current_proxy_mode()
        assert type(mode) is proxies.ProxyTorchDispatchMode
        assert mode.pre_dispatch is False
        for attribute in ("root", "get_fresh_qualname", "unwrap_proxy", "create_proxy"):
            assert hasattr(mode.tracer, attribute)
        with proxies.suspend_tracing():
            assert proxies.current_proxy_mode() is None
            x.cos()
        assert proxies.current_proxy_mode() is mode
        return x.sin()

    with in_torchs_tracer(function) as graph_module:
        assert [node.name for node in graph_module.graph.nodes][1:-1] == ["sin"]


@check("proxies.get_proxy_slot", "proxies.track_tensor_tree", "proxies.TrackedTensor")
def _slots() -> None:
    def function(x: Tensor) -> Tensor:
        mode = proxies.current_proxy_mode()
        assert mode is not None
        tracer: Any = mode.tracer
        slot: Any = proxies.get_proxy_slot(x, tracer, None)
        assert type(slot) is proxies.TrackedTensor
        assert slot.proxy.node.op == "placeholder"
        assert slot.constant is None
        with proxies.suspend_tracing():
            value = torch.zeros(2)
            assert proxies.get_proxy_slot(value, tracer, None) is None
            proxy = tracer.create_proxy("call_function", torch.neg, (slot.proxy,), {}, name="mine")
            tracked = proxies.track_tensor_tree(value, proxy, constant=None, tracer=tracer)
        assert tracked is value
        return value

    with in_torchs_tracer(function) as graph_module:
        (node,) = graph_module.graph.output_node().all_input_nodes
        assert node.name == "mine"
        assert node.meta["val"].shape == (2,)


@check("proxies.trace_subgraph_with_torch")
def _subgraphs() -> None:
    def function(x: Tensor) -> Tensor:
        with proxies.suspend_tracing():
            inner = proxies.trace_subgraph_with_torch(lambda y: y.sin() + 1)(x)
        assert isinstance(inner, fx.GraphModule)
        assert len(inner.graph.nodes) == 4
        return x.cos()

    with in_torchs_tracer(function) as graph_module:
        assert len(graph_module.graph.nodes) == 3


@check("proxies.register_fake_rule")
def _fake_rules() -> None:
    class Widened(dispatch.HigherOrderOperator):
        def __call__(self, x: Tensor) -> Any:
            return super().__call__(x)

    try:
        widened = Widened("door_tests__widened")
        proxies.register_fake_rule(widened, lambda x: x.new_empty(7), skip_cache=True)
        with fake.FakeTensorMode(), torch.no_grad(), dispatch.below_autograd():
            assert widened(torch.ones(2)).shape == (7,)
    finally:
        del dispatch.higher_order_operators["door_tests__widened"]


# functional


@check("functional.FunctionalTensor", "functional.FunctionalTensorMode")
@check("functional.functional_value", "functional.FUNCTIONAL_SLOT", "functional.functionalized")
def _functional_tensors() -> None:
    x = torch.ones(2)
    seen: list[Tensor] = []

    def add_in_place(given: Tensor) -> Tensor:
        assert isinstance(given, functional.FunctionalTensor)
        assert dispatch.infra_mode(functional.FUNCTIONAL_SLOT) is mode
        assert functional.functional_value(given) is x
        seen.append(given)
        return given.add_(1)

    mode = functional.FunctionalTensorMode()
    result = functional.functionalized(add_in_place, mode)(x)
    assert type(result) is Tensor
    assert result.equal(torch.full((2,), 2.0))
    assert x.equal(torch.ones(2))
    assert functional.functional_value(x) is x
    torch.func.functionalize(lambda y: seen.append(y))(x)
    assert functional.functional_value(seen[1]).equal(x)


# pytree and symbolic


@check("pytree.tree_flatten", "pytree.tree_unflatten", "pytree.tree_leaves", "pytree.TreeSpec")
def _trees() -> None:
    tree = {"a": [1, (2, None)], "b": "c"}
    leaves, spec = pytree.tree_flatten(tree)
    assert leaves == [1, 2, None, "c"] == pytree.tree_leaves(tree)
    assert isinstance(spec, pytree.TreeSpec)
    assert pytree.tree_unflatten(leaves, spec) == tree
    assert not spec.is_leaf()
    assert [child.is_leaf() for child in spec.children()] == [False, True]


@check("pytree.tree_map", "pytree.tree_map_only")
def _maps() -> None:
    assert pytree.tree_map(lambda leaf: leaf * 2, [1, ("a",)]) == [2, ("aa",)]
    assert pytree.tree_map_only(int, lambda leaf: leaf * 2, [1, ("a",)]) == [2, ("a",)]


@check("pytree.tree_flatten_with_path", "pytree.keystr")
def _paths() -> None:
    paths, _ = pytree.tree_flatten_with_path({"a": [1, 2]})
    assert [(pytree.keystr(path), leaf) for path, leaf in paths] == [
        ("['a'][0]", 1),
        ("['a'][1]", 2),
    ]


@check("pytree.treespec_dumps", "pytree.treespec_loads")
def _written_trees() -> None:
    _, spec = pytree.tree_flatten({"a": [1, (2,)]})
    text = pytree.treespec_dumps(spec)
    assert isinstance(text, str)
    assert pytree.treespec_loads(text) == spec


@check("symbolic.statically_known_true")
def _known() -> None:
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    environment = ShapeEnv()
    mode = fake.FakeTensorMode(shape_env=environment)
    size = mode.from_tensor(torch.ones(4, 6)).shape[0]
    assert symbolic.statically_known_true(size == size)
    assert not symbolic.statically_known_true(size == 4)
    assert environment.guards == []
    assert symbolic.statically_known_true(True)


@check("compiler.reports_without_guards")
def _reports() -> None:
    from torch._dynamo import convert_frame

    reasons = convert_frame.get_and_maybe_log_recompilation_reasons
    assert reasons.__module__ == "hopyard._torch.compiler"
    function = torch.compile(lambda x: x + x.shape[0], backend="eager", dynamic=False)
    function(torch.ones(2))
    with compiler.reports_without_guards(symbolic.ShapeEnv()):
        assert function(torch.ones(3)).tolist() == [4.0] * 3
    torch.compiler.reset()


@check("provenance.function_modes_off")
def _modes_off() -> None:
    with torch.device("meta"), torch.device("cpu"):
        before = dispatch.function_mode_stack()
        with suppress(KeyError), provenance.function_modes_off():
            assert provenance.function_mode_count() == 0
            raise KeyError
        assert dispatch.function_mode_stack() == before
        assert len(before) == 2


@check("compiler.compiled_whole")
def _compiled_whole() -> None:
    def whole(x: Tensor) -> Tensor:
        return x.sin()

    def parts(x: Tensor) -> Tensor:
        print(x)
        return x

    seen = []

    def backend(graph_module: fx.GraphModule, inputs: Any) -> Any:
        seen.append(graph_module)
        return graph_module

    # Where torch.compile does nothing.
    with (
        mock.patch("torch.compiler.is_exporting", return_value=True),
        compiler.settings.patch(force_compile_during_fx_trace=True),
    ):
        assert compiler.compiled_whole(whole, backend)(torch.zeros(1)).item() == 0
        with pytest.raises(compiler.GraphBreak):
            compiler.compiled_whole(parts, backend)(torch.zeros(1))
    torch.compiler.reset()
    assert len(seen) == 1


@check("compiler.settings")
def _settings() -> None:
    def function(x: Tensor) -> Tensor:
        return x * x.sum().item()

    seen = []
    wanted = {"recompile_limit": 3, "accumulated_recompile_limit": 4, "allow_empty_graphs": True}
    with compiler.settings.patch(capture_scalar_outputs=True, **wanted):
        for name, value in wanted.items():
            assert getattr(compiler.settings, name) == value
        thread = threading.Thread(target=lambda: seen.append(compiler.settings.recompile_limit))
        thread.start()
        thread.join()
        compiled = torch.compile(function, backend="eager", fullgraph=True)
        assert compiled(torch.ones(2)).tolist() == [2.0, 2.0]
    torch.compiler.reset()
    # They are a thread's own.
    assert seen == [compiler.settings.recompile_limit] != [3]


@check("compiler.GraphBreak")
def _graph_break() -> None:
    def function(x: Tensor) -> Tensor:
        print(x)
        return x

    with pytest.raises(compiler.GraphBreak) as raised:
        torch.compile(function, backend="eager", fullgraph=True)(torch.ones(1))
    assert raised.value.real_stack[-1].filename == __file__


class Doubling(dispatch.HigherOrderOperator):
    """Runs a body on operands and doubles what it returns; a factor of two is all it takes."""

    def __call__(self, body: Any, *operands: Any, factor: int) -> Any:
        return [factor * body(*operands)]


class Named(NamedTuple):
    text: str
    value: Tensor


class SecondOf(dynamo.Variable):
    """A body that returns the second of two results."""

    def __init__(self, body: Any) -> None:
        super().__init__()
        self._body = body

    def call_function(self, tx: Any, args: Any, kwargs: Any) -> Any:
        result = dynamo.realized(self._body.call_function(tx, args, kwargs))
        assert isinstance(result, dynamo.NAMED_TUPLE_VARIABLE)
        told, value = result._base_vt.items
        assert told.is_python_constant()
        assert value.maybe_fx_node() is not None
        return value


class DoublingVariable(dynamo.OperatorVariable):
    _HOP_NAME = "door_tests__doubling"

    def __init__(self, value: Any, source: Any = None, **options: Any) -> None:
        super().__init__(value, source, **options)
        dynamo.install_guard(source.make_guard(dynamo.GuardBuilder.ID_MATCH))

    def _call_function(self, tx: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        args, kwargs = dynamo.realized((args, kwargs))
        body, operands = args
        assert isinstance(operands, dynamo.CONTAINER_VARIABLES)
        (operand,) = operands.items
        factor = kwargs["factor"]
        symbolic = isinstance(factor, dynamo.NumberVariable)
        factor = factor.evaluate_expr() if symbolic else factor.as_python_constant()
        (_, _), graph, captured = dynamo.trace_body(
            tx,
            SecondOf(body),
            [operand],
            {},
            "doubling",
            source_target=self.value,
            set_subgraph_inputs="flatten_manual",
        )
        assert graph._dynamo_mutated_input_indices == ()
        name = tx.output.install_subgraph("body", fx.GraphModule({}, graph))
        proxy = tx.output.create_proxy(
            "call_function",
            self.value,
            (dynamo.read_attribute(tx, name), operand.as_proxy(), *captured),
            {"factor": factor},
        )
        result = dynamo.fake_result(proxy.node, tx)
        dynamo.set_example(proxy.node, result)
        item = dynamo.graph_variable(tx, proxy[0], example_value=result[0])
        return dynamo.container_variable(tx, [item, dynamo.ConstantVariable.create(factor)])


@check(
    "dynamo.CONTAINER_VARIABLES",
    "dynamo.NAMED_TUPLE_VARIABLE",
    "dynamo.ConstantVariable",
    "dynamo.NumberVariable",
    "dynamo.OperatorVariable",
    "dynamo.Variable",
    "dynamo.container_variable",
    "dynamo.fake_result",
    "dynamo.graph_variable",
    "dynamo.install_guard",
    "dynamo.operator_variables",
    "dynamo.read_attribute",
    "dynamo.realized",
    "dynamo.set_example",
    "dynamo.trace_body",
    "dynamo.GuardBuilder",
)
def _a_variable_of_ones_own() -> None:
    operator, other = Doubling("door_tests__doubling"), Doubling("door_tests__other")
    graphs = []

    def backend(graph_module: fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph_module)
        return graph_module

    def program(called: Any, x: Tensor, captured: Tensor, factor: int) -> Any:
        return called(lambda y: Named("text", y * captured), [x], factor=factor)

    names = [operator.name(), other.name()]
    dynamo.operator_variables.update(dict.fromkeys(names, DoublingVariable))
    compiled = torch.compile(program, backend=backend, fullgraph=True)
    x, captured = torch.ones(2), torch.full((2,), 3.0)
    try:
        for factor in (2, 3, 4):
            result, told = compiled(operator, x, captured, factor)
            assert (result.tolist(), told) == ([3.0 * factor] * 2, factor)
        compiled(other, x, captured, 4)
    finally:
        for name in names:
            del dynamo.operator_variables[name]
        torch.compiler.reset()
    targets = [
        next(node.target for node in graph.graph.nodes if node.op == "call_function")
        for graph in graphs
    ]
    # The type of the operator alone would not tell one from another.
    assert targets == [operator, operator, operator, other]


@check("dynamo.OverridingVariable")
def _overriding_variables() -> None:
    class Overriding(Tensor):
        pass

    seen = []

    class Variable(DoublingVariable):
        _HOP_NAME = "door_tests__seen"

        def call_function(self, tx: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
            seen.extend(isinstance(each, dynamo.OverridingVariable) for each in args)
            return args[0]

    operator = Doubling("door_tests__seen")
    dynamo.operator_variables[operator.name()] = Variable
    try:
        compiled = torch.compile(lambda x, y: operator(x, y), backend="eager", fullgraph=True)
        compiled(torch.ones(1).as_subclass(Overriding), torch.ones(1))
    finally:
        del dynamo.operator_variables[operator.name()]
        torch.compiler.reset()
    assert seen == [True, False]


@check("compiler.UserError")
def _user_error() -> None:
    def function(x: Tensor) -> Tensor:
        return x + 1 if x.sum().item() > 0 else x

    with (
        compiler.settings.patch(capture_scalar_outputs=True),
        pytest.raises(compiler.UserError) as raised,
    ):
        torch.compile(function, backend="eager", fullgraph=True)(torch.ones(1))
    torch.compiler.reset()
    assert raised.value.real_stack[-1].filename == __file__


@check("compiler.UncapturedCall")
def _uncaptured() -> None:
    class Variable(DoublingVariable):
        _HOP_NAME = "door_tests__refused"

        def call_function(self, tx: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
            raise compiler.UncapturedCall("as it must be")

    operator = Doubling("door_tests__refused")
    dynamo.operator_variables[operator.name()] = Variable
    try:
        # Unlike a graph break it is an error whether or not the whole must be one graph.
        with pytest.raises(compiler.UncapturedCall) as raised:
            torch.compile(lambda x: operator(x), backend="eager")(torch.ones(1))
    finally:
        del dynamo.operator_variables[operator.name()]
        torch.compiler.reset()
    assert raised.value.real_stack[-1].filename == __file__


@check("dispatch.layout_constraint")
def _strides() -> None:
    exact = torch.Tag.needs_exact_strides
    assert dispatch.layout_constraint(torch.ops.aten._scaled_mm.default) == exact
    assert dispatch.layout_constraint(torch.ops.aten.add.Tensor) != exact


@check("fake.make_subclass")
def _subclass() -> None:
    class Mine(Tensor):
        pass

    plain = torch.ones(2)
    mine = fake.make_subclass(Mine, plain)
    assert type(mine) is Mine
    assert mine.untyped_storage()._cdata == plain.untyped_storage()._cdata


@check("fake.share_storage")
def _share_storage() -> None:
    mine, other = torch.ones(2), torch.zeros(3, 4)
    fake.share_storage(mine, other)
    assert mine.shape == (2,)
    assert mine.untyped_storage()._cdata == other.untyped_storage()._cdata


@check("fake.make_wrapper")
def _make_wrapper() -> None:
    class Mine(Tensor):
        @classmethod
        def __torch_dispatch__(cls, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("nothing is computed")

    size = symbolic.ShapeEnv().create_unbacked_symint()
    made = fake.make_wrapper(
        Mine, (3, 4), dtype=torch.float32, device=torch.device("meta"), storage_size=size
    )
    assert made.is_contiguous()
    assert made.untyped_storage().nbytes().node is size.node


@check("proxies.active_tracer", "proxies.set_active_tracer")
def _active_tracer() -> None:
    assert proxies.active_tracer() is None
    seen = []

    def function(x: Tensor) -> Tensor:
        seen.append(proxies.active_tracer())
        return x + 1

    torch_make_fx(function)(torch.ones(2))
    assert hasattr(seen[0], "trace_subgraph")
    proxies.set_active_tracer(seen[0])
    try:
        assert proxies.active_tracer() is seen[0]
    finally:
        proxies.set_active_tracer(None)


@check(
    "symbolic.ShapeEnv",
    "symbolic.SymNode",
    "symbolic.GuardOnDataDependentSymNode",
    "symbolic.compute_unbacked_bindings",
)
def _unbacked() -> None:
    environment = symbolic.ShapeEnv()
    size = environment.create_unbacked_symint()
    assert isinstance(size.node, symbolic.SymNode)
    # Numbers of a capture are of a subclass, which keeps the expression where its base does.
    assert isinstance(symbolic.SymNode.expr, property)
    assert {"_expr", "_expr_cache", "_expr_ver", "_hint"} <= vars(size.node).keys()
    assert environment._replacements_version_counter == 0
    assert environment.pending_fresh_unbacked_symbols
    bindings = symbolic.compute_unbacked_bindings(environment, size)
    assert list(bindings or {}) == [size.node.expr]
    assert not environment.pending_fresh_unbacked_symbols
    with pytest.raises(symbolic.GuardOnDataDependentSymNode):
        bool(size == 4)


@check("symbolic.wrap_number")
def _() -> None:
    number = symbolic.wrap_number(symbolic.ShapeEnv().create_unbacked_symint().node)
    assert isinstance(number, torch.SymInt)
    assert symbolic.wrap_number(number.node.wrap_int(3)) == 3


@check("symbolic.size_source")
def _() -> None:
    assert symbolic.size_source(symbolic.input_source("x"), 1).name.endswith(".size()[1]")


@check("symbolic.is_arithmetic_logged")
def _() -> None:
    logger = torch.fx.experimental.sym_node.sym_node_log
    with mock.patch.object(logger, "isEnabledFor", return_value=True):
        assert symbolic.is_arithmetic_logged()
    with mock.patch.object(logger, "isEnabledFor", return_value=False):
        assert not symbolic.is_arithmetic_logged()
        with mock.patch.object(torch._logging._internal, "GET_DTRACE_STRUCTURED", True):
            assert symbolic.is_arithmetic_logged()


@check("symbolic.is_decided_statically")
def _() -> None:
    with mock.patch.object(torch.fx.experimental._config, "backed_size_oblivious", True):
        assert symbolic.is_decided_statically()
    assert not symbolic.is_decided_statically()


@check("symbolic.free_symbols")
def _free_symbols() -> None:
    number = symbolic.ShapeEnv().create_unbacked_symint()
    assert symbolic.free_symbols(number * 2) == {number.node.expr}
    assert symbolic.free_symbols(torch.ones(2)) == set()


@check("symbolic.free_unbacked_symbols")
def _() -> None:
    number = symbolic.ShapeEnv().create_unbacked_symint()
    assert symbolic.free_unbacked_symbols(number.node.expr + 1) == {number.node.expr}


@check("symbolic.is_accessor_node")
def _accessor() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    assert symbolic.is_accessor_node(graph.call_function(torch.ops.aten.sym_size.int, (x, 0)))
    assert not symbolic.is_accessor_node(graph.call_function(torch.ops.aten.item.default, (x,)))


@check("symbolic.input_source")
def _input_source() -> None:
    environment = symbolic.ShapeEnv()
    source = symbolic.input_source("input0")
    size = environment.create_symbol(5, source)
    assert source.name == "input0"
    assert environment.create_symbol(5, symbolic.input_source("input1")) == size


@check("symbolic.insert_deferred_runtime_asserts")
def _runtime_asserts() -> None:
    def function(x: Tensor) -> Tensor:
        number = (x + 0).item()
        torch._check(number * 2 < 9)
        return torch.zeros(3) + number

    graph_module = torch_make_fx(function, tracing_mode="symbolic")(torch.tensor(4))
    symbolic.insert_deferred_runtime_asserts(graph_module, graph_module.shape_env, "a test")
    graph_module.recompile()
    graph_module(torch.tensor(4))
    with pytest.raises(RuntimeError, match="Runtime assertion failed"):
        graph_module(torch.tensor(5))


@check("symbolic.expression_handlers")
def _handlers() -> None:
    import sympy

    assert symbolic.expression_handlers()[sympy.Mul] == "mul"


@check("dispatch.is_mkldnn_enabled", "dispatch.is_cudnn_enabled")
def _libraries() -> None:
    # The public switch of mkldnn also sets what only Intel's own devices have, and warns.
    set_mkldnn = torch._C._set_mkldnn_enabled
    for read, write in (
        (dispatch.is_mkldnn_enabled, set_mkldnn),
        (dispatch.is_cudnn_enabled, torch._C._set_cudnn_enabled),
    ):
        before = read()
        try:
            write(not before)
            assert read() is not before
        finally:
            write(before)


# provenance


class Seeing(provenance.TorchFunctionMetadataMode):
    def __init__(self) -> None:
        self.functions: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


@check("provenance.TorchFunctionMetadataMode", "provenance.function_mode_count")
@check("provenance.pop_function_mode", "provenance.push_function_mode")
def _function_metadata() -> None:
    torch.compiler.reset()
    assert provenance.function_mode_count() == 0
    with Seeing() as mode:
        assert provenance.function_mode_count() == 1
        assert provenance.pop_function_mode() is mode
        torch.ones(1)
        provenance.push_function_mode(mode)
        torch.zeros(1)
        # torch takes it off while it runs Dynamo.
        assert torch.cond(torch.tensor(True), torch.sin, torch.cos, [torch.zeros(1)]) == 0
    # What Dynamo compiles must not make another test's shapes dynamic.
    torch.compiler.reset()
    assert torch.ones not in mode.functions
    assert torch.zeros in mode.functions


@check("provenance.COPIED_KEYS", "provenance.next_autograd_number", "provenance.are_numbers_kept")
@check("provenance.original_operator")
def _copied_metadata() -> None:
    seen: list[Any] = []

    def program(x: Tensor) -> Tensor:
        with fx.traceback.annotate({"part": 1}):
            seen.append((provenance.are_numbers_kept(), provenance.next_autograd_number()))
            return Noting(seen)(x)

    assert {"custom", "from_node", "nn_module_stack", "original_aten"} <= {*provenance.COPIED_KEYS}
    x = torch.ones(2, requires_grad=True)
    with fx.traceback.preserve_node_meta():
        graph_module = torch_make_fx(program)(x)
    node = graph_module.graph.find_nodes(op="call_function", target=aten.sin.default)[0]
    kept, number = seen[0]
    assert not kept
    assert node.meta["seq_nr"] == number
    assert node.meta["custom"] == {"part": 1}
    assert seen[1] is aten.sin.default
    assert provenance.original_operator.get() is None


class Noting:
    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def __call__(self, x: Tensor) -> Tensor:
        seen = self.seen

        class Below(Seen):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                seen.append(provenance.original_operator.get() or func)
                return func(*args, **(kwargs or {}))

        with Below():
            return x.sin()


@check("provenance.stack_trace_anchors", "provenance.uninteresting_files")
def _stack_trace_frames() -> None:
    @fx.traceback.annotate_fn({"part": 1})
    def annotated(x: Tensor) -> Tensor:
        return x.sin()

    anchor = (__file__, "annotated")
    assert anchor in provenance.stack_trace_anchors
    assert fx._symbolic_trace.__file__ in provenance.uninteresting_files()
    assert __file__ not in provenance.uninteresting_files()
    graph_module = torch_make_fx(annotated, record_stack_traces=True)(torch.ones(2))
    (node,) = graph_module.graph.find_nodes(op="call_function", target=aten.sin.default)
    assert "in annotated" in node.stack_trace


@check("provenance.are_stack_traces_demanded")
def _demanded_stack_traces() -> None:
    from torch._inductor import config

    assert not provenance.are_stack_traces_demanded()
    with config.patch({"trace.provenance_tracking_level": 1}):
        assert provenance.are_stack_traces_demanded()


@check("provenance.is_compiled")
def _compiled_modules() -> None:
    module = nn.Linear(2, 2)
    assert not provenance.is_compiled(module)
    assert provenance.is_compiled(torch.compile(module, backend="eager"))


@check("dispatch.infra_mode", "dispatch.without_infra_mode")
def _slots_of_the_mode_stack() -> None:
    assert dispatch.infra_mode(dispatch.PROXY_SLOT) is None
    with dispatch.without_infra_mode(dispatch.PROXY_SLOT) as nobody:
        assert nobody is None
    with Slotted() as mode:
        assert dispatch.infra_mode(dispatch.PROXY_SLOT) is mode
        with dispatch.without_infra_mode(dispatch.PROXY_SLOT) as suspended:
            assert suspended is mode
            assert dispatch.infra_mode(dispatch.PROXY_SLOT) is None
        assert dispatch.infra_mode(dispatch.PROXY_SLOT) is mode
    seen = []
    torch_make_fx(
        lambda x: seen.append(dispatch.infra_mode(dispatch.PROXY_SLOT)) or x, pre_dispatch=True
    )(torch.ones(1))
    assert seen[0].pre_dispatch


@check("fake.active_fake_mode")
def _active_fake_mode() -> None:
    assert fake.active_fake_mode() is None
    with fake.FakeTensorMode() as mode:
        assert fake.active_fake_mode() is mode


@check("fake.UnsupportedFakeTensorException")
def _cannot_be_fake() -> None:
    with warnings.catch_warnings(action="ignore"):
        quantized = torch.quantize_per_tensor(torch.ones(1), 0.1, 0, torch.qint8)
    with pytest.raises(fake.UnsupportedFakeTensorException):
        fake.FakeTensorMode().from_tensor(quantized)


@check("proxies.are_slots_kept", "proxies.keep_slots")
def _kept_slots() -> None:
    def function(x: Tensor) -> Tensor:
        with proxies.keep_slots():
            assert proxies.are_slots_kept()
            x.add_(1)
        return x.mul_(2)

    with in_torchs_tracer(function) as graph_module:
        first, second = graph_module.graph.find_nodes(op="placeholder")[0].users
        assert (first.name, second.name) == ("add_", "mul_")
    assert not proxies.are_slots_kept()


@check("proxies.tracing_flag", "proxies.set_tracing_flag")
def _flag() -> None:
    class Truth:
        def __bool__(self) -> bool:
            return True

    assert proxies.tracing_flag() is False
    compiled = torch.compile(lambda x: x + 1, backend="eager")
    proxies.set_tracing_flag(Truth())
    try:
        with pytest.raises(RuntimeError, match="dynamo-optimized"):
            compiled(torch.ones(1))
    finally:
        proxies.set_tracing_flag(False)
    assert compiled(torch.ones(1)).item() == 2


@check("inductor.emulates_precision_casts")
def _casts() -> None:
    from torch._inductor import config

    for setting in (True, False):
        with config.patch(emulate_precision_casts=setting):
            assert inductor.emulates_precision_casts() is setting


@check("compiler.lowered_backend", "compiler.boxed")
def _lowered() -> None:
    graphs = []

    def keep(graph_module: fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph_module)
        return compiler.boxed(graph_module)

    backend = compiler.lowered_backend(fw_compiler=keep, bw_compiler=keep)
    x = torch.ones(2, requires_grad=True)
    torch.compile(lambda x: x.sin(), backend=backend)(x).sum().backward()
    torch.compiler.reset()
    assert x.grad.equal(torch.ones(2).cos())
    names = [[node.target for node in graph.graph.nodes] for graph in graphs]
    assert aten.sin.default in names[0]
    assert aten.cos.default in names[1]


@check("inductor.compile_and_package", "inductor.load_package")
def _packages() -> None:
    # What they do is tried with tests/sweep/sweep_compiled_hops.py; it takes a C++ compiler.
    import inspect

    import torch._inductor

    for name in ("compile_and_package", "load_package"):
        function = getattr(torch._inductor, f"aoti_{name}")
        assert "package_path" in str(inspect.signature(function)) or name == "load_package"


@check("inductor.is_inductor_compiling", "inductor.is_inductor_loaded")
def _inductor_at_work() -> None:
    import torch._inductor.lowering
    from torch._inductor.virtualized import V

    assert inductor.is_inductor_loaded()
    assert not inductor.is_inductor_compiling()
    with V.set_fake_mode(fake.FakeTensorMode()):
        assert inductor.is_inductor_compiling()
    seen = []

    def backend(graph_module: fx.GraphModule, inputs: Any) -> Any:
        from torch._inductor.compile_fx import compile_fx

        def inner(compiled: fx.GraphModule, *args: Any, **kwargs: Any) -> Any:
            seen.append(inductor.is_inductor_compiling())
            return compiled

        return compile_fx(graph_module, inputs, inner_compile=inner)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
    torch.compiler.reset()
    assert seen == [True]
    assert not inductor.is_inductor_compiling()


@check(
    "inductor.register_lowering",
    "inductor.graph_of",
    "inductor.call_being_lowered",
    "inductor.lower_graph",
)
def _lowerings() -> None:
    from torch._inductor.graph import GraphLowering
    from torch._inductor.lowering import lowerings
    from torch._inductor.virtualized import V

    class Probe(dispatch.HigherOrderOperator):
        def __call__(self, body: Any, *operands: Any) -> Any:
            return super().__call__(body, *operands)

    operator = Probe("door_tests__lowered")
    captured = torch.rand(99)
    body = torch_make_fx(lambda x: x.sin() + captured)(torch.ones(99))
    graph = fx.Graph()
    x = graph.placeholder("x")
    with fake.FakeTensorMode() as mode:
        x.meta["val"] = torch.ones(99)
    call = graph.call_function(operator, (graph.get_attr("body"), x))
    call.meta["val"] = x.meta["val"]
    graph.output((call,))
    calls = []

    def lowering(value: Any, operand: Any) -> Any:
        calls.append(inductor.call_being_lowered())
        return inductor.lower_graph(inductor.graph_of(value), [operand])

    inductor.register_lowering(operator, lowering)
    try:
        lowered = GraphLowering(fx.GraphModule({"body": body}, graph))
        with V.set_graph_handler(lowered), V.set_fake_mode(mode):
            lowered.run(x.meta["val"])
    finally:
        del lowerings[operator]
    assert [each.target for each in calls] == [operator]
    assert [tuple(each.get_size()) for each in lowered.graph_outputs] == [(99,)]
    assert len(lowered.constants) == 1


class Reference(OpaqueBase):
    pass


def rebuild(*args: Any) -> None:
    return None


class Constant:
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant)

    def __hash__(self) -> int:
        return 0

    def __fx_repr__(self) -> tuple[str, dict[str, type]]:
        return "Constant()", {"Constant": Constant}


register_opaque_type(Reference, typ="reference", reconstruct_fn=rebuild)
register_opaque_type(Constant, typ="value", hoist=True)


@check(
    "objects.is_opaque_type",
    "objects.is_opaque_reference_type",
    "objects.is_opaque_value_type",
    "objects.is_hoisted",
    "objects.reconstruction_of",
)
def _opaque_types() -> None:
    assert objects.is_opaque_type(Reference)
    assert objects.is_opaque_type(Constant)
    assert not objects.is_opaque_type(int)
    assert objects.is_opaque_reference_type(Reference)
    assert objects.is_opaque_reference_type(torch.Generator)
    assert not objects.is_opaque_reference_type(Constant)
    assert objects.is_opaque_value_type(Constant)
    assert objects.is_hoisted(Constant)
    assert not objects.is_hoisted(Reference)
    assert objects.reconstruction_of(Reference) is rebuild
    assert objects.reconstruction_of(Constant) is None


@check("objects.FAKE_CLASS_DECORATOR")
def _decorator_of_fake_classes() -> None:
    module, name = objects.FAKE_CLASS_DECORATOR.rsplit(".", 1)
    registered = getattr(importlib.import_module(module), name)
    assert registered.__module__ == "torch._library.fake_class_registry"


@check("objects.FakeScriptObject", "objects.to_fake_object", "objects.real_object")
def _fake_objects() -> None:
    real = Reference()
    made = objects.to_fake_object(fake.FakeTensorMode(), real)
    assert isinstance(made, objects.FakeScriptObject)
    assert objects.real_object(made) is real
    with_nothing_behind = object.__new__(objects.FakeScriptObject)
    assert objects.real_object(with_nothing_behind) is None


@check(
    "objects.call_method",
    "objects.class_name",
    "objects.has_fake_class",
    "objects.is_script_object",
    "functional.call_below",
)
def _script_objects() -> None:
    init_torchbind_implementations()
    real = torch.classes._TorchScriptTesting._Foo(10, 20)
    made = objects.to_fake_object(fake.FakeTensorMode(), real)
    assert objects.is_script_object(real)
    assert not objects.is_script_object(made)
    assert objects.has_fake_class(real)
    assert objects.class_name(real) == objects.class_name(made)
    assert objects.class_name(real).endswith("_TorchScriptTesting._Foo")
    seen: list[Tensor] = []

    def look(given: Tensor) -> Tensor:
        seen.append(given)
        return given * 2

    def function(x: Tensor) -> Tensor:
        x[0].add_(1)
        return functional.call_below(look, x).add_(1)

    assert torch.func.functionalize(function)(torch.ones(2)).tolist() == [5.0, 3.0]
    assert seen[0].tolist() == [2.0, 1.0]
    assert objects.call_method(real, "add_tensor", torch.ones(1)).tolist() == [30.0]


@check("objects.address_of")
def _generators() -> None:
    given: list[Any] = []

    class Looks(dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            given.append(kwargs["generator"])
            return func(*args, **kwargs)

    generator = torch.Generator()
    with Looks():
        torch.rand(1, generator=generator)
    assert objects.address_of(given[0]) == objects.address_of(generator)
    assert objects.address_of(torch.Generator()) != objects.address_of(generator)


@check("objects.WeakIdKeyDictionary", "objects.WeakHashRef")
def _weak_keys() -> None:
    by_identity: Any = objects.WeakIdKeyDictionary()
    by_hash: Any = objects.WeakIdKeyDictionary(dict=None, ref_type=objects.WeakHashRef)
    one, other = Constant(), Constant()
    by_identity[one] = by_hash[one] = 1
    assert other not in by_identity
    assert by_hash[other] == 1
    del one
    assert len(by_identity) == len(by_hash) == 0


@check("objects.BackwardState")
def _backward_state() -> None:
    state = objects.BackwardState()
    states = []

    def function(x: Tensor, state: Any) -> Tensor:
        states.append(state.proxy)
        return x

    torch_make_fx(function)(torch.ones(1), state)
    assert states[0].node.op == "placeholder"


def _count_at_least_three(x: Tensor) -> Tensor:
    count = x.sum().int().item()
    torch._check(count >= 3)
    return torch.ones(count)


@check("exporting.ValueRanges", "exporting.insert_runtime_asserts", "exporting.rebind_unbacked")
def _promises_become_operators() -> None:
    fake_mode = fake.FakeTensorMode(shape_env=symbolic.ShapeEnv(), static_shapes=True)
    traced = torch_make_fx(_count_at_least_three, tracing_mode="fake")(
        fake_mode.from_tensor(torch.ones(3))
    )
    shape_env = fake_mode.shape_env
    bound = next(node for node in traced.graph.nodes if "unbacked_bindings" in node.meta)
    (symbol,) = bound.meta["unbacked_bindings"]
    assert isinstance(shape_env.var_to_range[symbol], exporting.ValueRanges)
    assert shape_env.var_to_range[symbol].lower == 3

    exporting.insert_runtime_asserts(traced, shape_env, "test", export=True)
    assert any("_assert_scalar" in str(node.target) for node in traced.graph.nodes)

    again = shape_env.create_unbacked_symint()
    exporting.rebind_unbacked(shape_env, bound, again)
    assert again.node.expr == symbol
    assert shape_env.unbacked_renamings == {again.node._expr: symbol}


@check("pytree.registered_containers")
def _containers_by_the_name_in_files() -> None:
    spec = pytree.tree_flatten({"a": [1]})[1]
    written = pytree.treespec_dumps(spec)
    for kind in (dict, list):
        (name,) = (each for each, known in pytree.registered_containers.items() if known is kind)
        assert f'"{name}"' in written


@check(
    "exporting.DerivedDim",
    "exporting.DimDynamic",
    "exporting.StatelessSymbolicContext",
    "exporting.infinity",
)
def _sizes_that_are_symbols() -> None:
    batch = torch.export.Dim("batch", max=8)
    derived = 2 * batch + 1
    assert isinstance(derived, exporting.DerivedDim)
    assert (derived.root, derived.fn(3)) == (batch, 7)

    fake_mode = fake.FakeTensorMode(shape_env=symbolic.ShapeEnv())
    kinds = [exporting.DimDynamic.DYNAMIC, exporting.DimDynamic.STATIC]
    first, second = (
        fake_mode.from_tensor(
            torch.ones(size, 3),
            source=symbolic.input_source(name),
            symbolic_context=exporting.StatelessSymbolicContext(dynamic_sizes=kinds),
        )
        for name, size in (("first", 4), ("second", 8))
    )
    assert isinstance(first.shape[0], torch.SymInt)
    assert first.shape[1] == 3
    # Deciding that one size is twice another replaces its symbol.
    assert bool(second.shape[0] == 2 * first.shape[0])
    assert second.shape[0].node.expr == 2 * first.shape[0].node.expr
    (guard,) = fake_mode.shape_env.guards
    assert "test_names.py" in str(guard.sloc)
    ranges = fake_mode.shape_env.var_to_range[first.shape[0].node.expr]
    assert (ranges.lower, ranges.upper) == (2, exporting.infinity)


@check("exporting.EXPRESSION_FUNCTIONS")
def _functions_in_expressions() -> None:
    import sympy

    size = sympy.Symbol("s0", positive=True, integer=True)
    expression = exporting.EXPRESSION_FUNCTIONS["FloorDiv"](size + 1, 2)
    written = sympy.srepr(expression)
    assert written.startswith("FloorDiv(")
    assert sympy.sympify(written, locals=exporting.EXPRESSION_FUNCTIONS) == expression
