"""What passes do, written once for any pass base: torch's, ExecuTorch's or ours.

A behaviour is a class without a base. :func:`on` puts it on one, so that `super()` is the base.
"""

# mypy: ignore-errors

from __future__ import annotations

import copy
import operator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule

aten = torch.ops.aten

ACTIVATIONS = {
    aten.relu.default: aten.sigmoid.default,
    aten.sigmoid.default: aten.tanh.default,
    aten.tanh.default: aten.sigmoid.default,
    aten.gelu.default: aten.relu.default,
    aten.silu.default: aten.sigmoid.default,
    aten.sin.default: aten.cos.default,
    aten.cos.default: aten.sin.default,
    aten.rsqrt.default: aten.sqrt.default,
}


def on(behaviour: type, base: type) -> Any:
    """Return an instance of a behaviour on a base."""
    return type(behaviour.__name__, (behaviour, base), {})()


def is_float(value: Any) -> bool:
    return value.is_tensor() and value.to_tensor().dtype.is_floating_point


class Identity:
    """Overrides nothing."""


class EachCallback:
    """Overrides every callback and calls super."""

    def placeholder(self, name, arg, meta):
        return super().placeholder(name, arg, meta)

    def call_operator(self, op, args, kwargs, meta):
        return super().call_operator(op, args, kwargs, meta)

    def call_sym(self, target, args, meta):
        return super().call_sym(target, args, meta)

    def call_getitem(self, value, key, meta):
        return super().call_getitem(value, key, meta)

    def call_cond(self, pred, true_fn, false_fn, inputs, meta):
        return super().call_cond(pred, true_fn, false_fn, inputs, meta)

    def call_map(self, f, mapped_args, operands, meta):
        return super().call_map(f, mapped_args, operands, meta)

    def call_submodule(self, graph_module, inputs):
        return super().call_submodule(graph_module, inputs)

    def output(self, results, meta):
        return super().output(results, meta)


class OtherOperator:
    def call_operator(self, op, args, kwargs, meta):
        return super().call_operator(ACTIVATIONS.get(op, op), args, kwargs, meta)


class MoreOperators:
    """Emits two nodes for one."""

    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        if op not in (aten.add.Tensor, aten.addmm.default) or not is_float(value):
            return value
        return super().call_operator(aten.mul.Tensor, (value, 2.0), {}, meta)


class NoOperator:
    """Emits nothing for some nodes."""

    def call_operator(self, op, args, kwargs, meta):
        if op in ACTIVATIONS or op is aten.clone.default:
            return args[0]
        return super().call_operator(op, args, kwargs, meta)


class Tags:
    """Writes metadata of every kind of node."""

    def placeholder(self, name, arg, meta):
        meta["tag"] = "input"
        return super().placeholder(name, arg, meta)

    def call_operator(self, op, args, kwargs, meta):
        meta["tag"] = "operator"
        return super().call_operator(op, args, kwargs, meta)

    def call_sym(self, target, args, meta):
        meta["tag"] = "number"
        return super().call_sym(target, args, meta)

    def call_getitem(self, value, key, meta):
        meta["tag"] = f"item {key}"
        return super().call_getitem(value, key, meta)

    def output(self, results, meta):
        meta["tag"] = "output"
        return super().output(results, meta)


class TagsAfterwards:
    """Writes to the metadata of the node that was made."""

    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        value.node.meta["tag"] = str(op)
        return value


class OtherType:
    """Changes the type of what follows."""

    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        if op not in ACTIVATIONS or not is_float(value):
            return value
        return super().call_operator(
            aten._to_copy.default, (value,), {"dtype": torch.float64}, meta
        )


class Keywords:
    """Changes keywords only, to what they are anyway."""

    def call_operator(self, op, args, kwargs, meta):
        if op is aten._softmax.default:
            return super().call_operator(op, args, dict(kwargs), meta)
        if op is aten.add.Tensor:
            kwargs = {**kwargs, "alpha": 2}
        return super().call_operator(op, args, kwargs, meta)


class SameArguments:
    """Gives every argument in containers of its own."""

    def call_operator(self, op, args, kwargs, meta):
        args = tuple(list(arg) if isinstance(arg, (list, tuple)) else arg for arg in args)
        return super().call_operator(op, args, {**kwargs}, meta)


class NewConstant:
    """Reads one new tensor in several places."""

    constant = torch.tensor(3.0)

    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        if op not in (aten.add.Tensor, aten.mul.Tensor, *ACTIVATIONS) or not is_float(value):
            return value
        return super().call_operator(aten.mul.Tensor, (value, self.constant), {}, meta)


class NewParameter(NewConstant):
    constant = nn.Parameter(torch.tensor(2.0), requires_grad=False)


class Attributes:
    """Counts the tensors that are read, and adds one."""

    one = torch.ones(())

    def __init__(self):
        super().__init__()
        self.seen = []

    def on_attr(self, attr):
        self.seen.append(attr.node.op)
        super().on_attr(attr)

    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        if op not in ACTIVATIONS:
            return value
        return super().call_operator(aten.add.Tensor, (value, self.one), {}, meta)


class ItemsByHand:
    """Replaces an operator of two results by two operators."""

    def call_operator(self, op, args, kwargs, meta):
        if op is not aten.max.dim:
            return super().call_operator(op, args, kwargs, meta)
        dims = (args[0], [args[1]], *args[2:])
        largest = super().call_operator(aten.amax.default, dims, {}, meta)
        where = super().call_operator(aten.argmax.default, args, {}, meta)
        return largest, where

    def call_getitem(self, value, key, meta):
        if isinstance(value, tuple):
            return value[key]
        return super().call_getitem(value, key, meta)


class ItemsCloned:
    def call_getitem(self, value, key, meta):
        item = super().call_getitem(value, key, meta)
        if not item.is_tensor():
            return item
        return super().call_operator(aten.clone.default, (item,), {}, meta)


class OutputsCloned:
    def output(self, results, meta):
        def cloned(value):
            if isinstance(value, (list, tuple)):
                return type(value)(cloned(item) for item in value)
            if hasattr(value, "is_tensor") and value.is_tensor():
                return self.call_operator(aten.clone.default, (value,), {}, meta)
            return value

        return super().output(cloned(results), meta)


class InputsCloned:
    def placeholder(self, name, arg, meta):
        value = super().placeholder(name, arg, meta)
        if not value.is_tensor():
            return value
        return self.call_operator(aten.clone.default, (value,), {}, meta)


class EverythingCloned:
    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        if not value.is_tensor():
            return value
        return super().call_operator(aten.clone.default, (value,), {}, meta)


class Numbers:
    """Adds nothing to each number that the graph computes."""

    def call_sym(self, target, args, meta):
        value = super().call_sym(target, args, meta)
        return super().call_sym(operator.add, (value, 0), meta)


class Packets:
    """Calls operators without saying which overload."""

    def call_operator(self, op, args, kwargs, meta):
        op = op.overloadpacket if op in (aten.relu.default, aten.tanh.default) else op
        return super().call_operator(op, args, kwargs, meta)


class ProductAndSum:
    """Takes an operator apart."""

    def call_operator(self, op, args, kwargs, meta):
        if op is not aten.addmm.default or kwargs:
            return super().call_operator(op, args, kwargs, meta)
        bias, left, right = args
        product = super().call_operator(aten.mm.default, (left, right), {}, meta)
        return super().call_operator(aten.add.Tensor, (product, bias), {}, meta)


class Backwards:
    """Changes the order of operands."""

    def call_operator(self, op, args, kwargs, meta):
        both = len(args) == 2 and all(hasattr(arg, "is_tensor") for arg in args)
        if op is aten.mul.Tensor and both:
            args = args[::-1]
        return super().call_operator(op, args, kwargs, meta)


class ByShape:
    """Decides by what is known of operands."""

    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        if not is_float(value) if value.is_tensor() else True:
            return value
        if value.to_tensor().dim() != 3 or op is aten.clone.default:
            return value
        return super().call_operator(aten.neg.default, (value,), {}, meta)


class NoMetadata:
    """Gives nodes no metadata of their own."""

    def call_operator(self, op, args, kwargs, meta):
        if op not in ACTIVATIONS:
            return super().call_operator(op, args, kwargs, meta)
        return super().call_operator(op, args, kwargs, type(meta)({}))


class OtherMetadata:
    """Gives nodes metadata of the node before."""

    def __init__(self):
        super().__init__()
        self.last = None

    def call_operator(self, op, args, kwargs, meta):
        given, self.last = self.last or meta, meta
        return super().call_operator(op, args, kwargs, given)


class DummyMetadata:
    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        if op not in ACTIVATIONS:
            return value
        dummy = self._create_dummy_node_metadata()
        assert "stack_trace" in dummy
        dummy.data["stack_trace"] = "dummy"
        return super().call_operator(aten.neg.default, (value,), {}, dummy)


class Proxies:
    """Makes nodes through the tracer, and handles by hand."""

    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        if op not in ACTIVATIONS:
            return value
        proxy = self.tracer.create_proxy("call_function", aten.neg.default, (value.proxy,), {})
        proxy.node.meta.update(meta.data)
        data = aten.neg.default(value.data)
        self.tracer.set_metadata(proxy.node, data)
        return type(value)(data, proxy)


class PastCallbacks:
    def call_operator(self, op, args, kwargs, meta):
        return self._fx("call_function", op, args, kwargs, meta)

    def output(self, results, meta):
        return self._fx("output", "output", (results,), {}, meta)


class DebugText:
    """Reads which node is replayed."""

    def call_operator(self, op, args, kwargs, meta):
        meta["tag"] = self.node_debug_str.split("call_function")[1].split("]")[0]
        return super().call_operator(op, args, kwargs, meta)


class OwnInputs:
    def inputs(self, graph_module):
        values = super().inputs(graph_module)
        return [value for value in values]  # noqa: C416


class Twice:
    def call(self, graph_module):
        return super().call(super().call(graph_module).graph_module)


class _Surgery:
    """Edits a copy of the graph, and lets the base compute the metadata."""

    def call(self, graph_module):
        edited = copy.deepcopy(graph_module)
        for node in list(edited.graph.nodes):
            if node.op == "call_function" and node.target in ACTIVATIONS:
                self.edit(edited.graph, node)
        edited.recompile()
        return super().call(edited)


class Retarget(_Surgery):
    def edit(self, graph, node):
        node.target = ACTIVATIONS[node.target]


class RetargetToOtherType(_Surgery):
    def edit(self, graph, node):
        node.target = aten.isnan.default
        with graph.inserting_after(node):
            made = graph.call_function(aten._to_copy.default, (node,), {"dtype": torch.float64})
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)


class InsertWithMetadata(_Surgery):
    """Copies metadata onto a node made by hand, and relies on it being computed anew."""

    def edit(self, graph, node):
        with graph.inserting_after(node):
            made = graph.call_function(aten._to_copy.default, (node,), {"dtype": torch.float64})
        made.meta = node.meta.copy()
        node.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)


class InsertWithoutMetadata(_Surgery):
    def edit(self, graph, node):
        with graph.inserting_after(node):
            made = graph.call_function(aten.unsqueeze.default, (node, 0))
            back = graph.call_function(aten.squeeze.dim, (made, 0))
        node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not made)


class Erase(_Surgery):
    def edit(self, graph, node):
        node.replace_all_uses_with(node.args[0])
        graph.erase_node(node)


class CopyNode(_Surgery):
    def edit(self, graph, node):
        with graph.inserting_after(node):
            made = graph.node_copy(node, lambda operand: operand)
        node.replace_all_uses_with(made)


class MoveUp(_Surgery):
    def edit(self, graph, node):
        node.args[0].append(node)


class WrongValues(_Surgery):
    """Leaves a value behind that nothing computes."""

    def edit(self, graph, node):
        node.meta["val"] = node.meta["val"].double()


class EditAfterwards:
    def call(self, graph_module):
        result = super().call(graph_module)
        for node in result.graph_module.graph.nodes:
            if node.op == "call_function" and node.target in ACTIVATIONS:
                node.target = ACTIVATIONS[node.target]
        result.graph_module.recompile()
        return super().call(result.graph_module)


class NewSubmodule:
    """Puts part of the graph into the branches of a condition."""

    def call_operator(self, op, args, kwargs, meta):
        value = super().call_operator(op, args, kwargs, meta)
        if op not in (aten.relu.default, aten.sin.default):
            return value
        branch = torch.fx.symbolic_trace(Doubled())
        branch.graph.find_nodes(op="call_function")[0].meta["val"] = value.data
        branch.graph.find_nodes(op="placeholder")[0].meta["val"] = value.data
        with_other = copy.deepcopy(branch)
        with_other.graph.find_nodes(op="call_function")[0].target = aten.add.Tensor
        with_other.recompile()
        made = self.call_cond(True, branch, with_other, [value], meta)
        return self.call_getitem(made, 0, meta)


class Doubled(nn.Module):
    def forward(self, x):
        return (aten.mul.Tensor(x, 2.0),)


class Branches:
    """Tags the bodies of conditions and maps."""

    def call_submodule(self, graph_module: GraphModule, inputs):
        result = super().call_submodule(graph_module, inputs)
        for node in result.graph_module.graph.nodes:
            node.meta["tag"] = "visited"
        return result


class SwappedBranches:
    def call_cond(self, pred, true_fn, false_fn, inputs, meta):
        return super().call_cond(pred, false_fn, true_fn, inputs, meta)


BEHAVIOURS = {
    found.__name__: found
    for found in (
        Identity,
        EachCallback,
        OtherOperator,
        MoreOperators,
        NoOperator,
        Tags,
        TagsAfterwards,
        OtherType,
        Keywords,
        SameArguments,
        NewConstant,
        NewParameter,
        Attributes,
        ItemsByHand,
        ItemsCloned,
        OutputsCloned,
        InputsCloned,
        EverythingCloned,
        Numbers,
        Packets,
        ProductAndSum,
        Backwards,
        ByShape,
        NoMetadata,
        OtherMetadata,
        DummyMetadata,
        Proxies,
        PastCallbacks,
        DebugText,
        OwnInputs,
        Twice,
        Retarget,
        RetargetToOtherType,
        InsertWithMetadata,
        InsertWithoutMetadata,
        Erase,
        CopyNode,
        MoveUp,
        WrongValues,
        EditAfterwards,
        NewSubmodule,
        Branches,
        SwappedBranches,
    )
}
