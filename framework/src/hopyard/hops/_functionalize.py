"""A call under functionalization: what its body does in place is done by its caller afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .._stamps import version_of
from .._torch.dispatch import current_transform
from .._torch.functional import FunctionalTensorMode, functional_value, functionalized
from .._torch.pytree import TreeSpec, tree_flatten, tree_leaves, tree_unflatten
from ._captures import Lifted, name_of
from ._examination import NotExaminable, examine

if TYPE_CHECKING:
    from ._effects import Effects
    from ._operator import Operator


def functionalize_region(
    context: Any, operator: Operator, body: Callable[..., Any], *operands: Any, **config: Any
) -> Any:
    """Call the operator with a body that writes to nothing that it is given.

    What it writes to an operand or to a tensor that it captures it returns instead, and the new
    value is put in place after the call. An output that is an operand stays that operand.

    Raises:
        UnsupportedError: An output shares memory with an operand or another output, or what is
            written cannot be returned because the operator does more than run its body.
    """
    if not operator.is_recorded((), {}):
        return _see_through(context, operator, body, *operands, **config)
    call = functools.partial(operator.definition.eager, body, **config)
    try:
        with context.redispatch_to_next():
            transformed = current_transform() is not None
            if not transformed:
                found = examine(call, operands, gradient=False, body=body, operator=operator)
    except NotExaminable:
        return _see_through(context, operator, body, *operands, **config)
    if transformed:
        return _see_through(context, operator, body, *operands, **config)

    leaves = [*tree_leaves(operands), *found.captured]
    names = [f"operand {index}" for index in range(len(leaves) - len(found.captured))]
    names += [repr(name_of(tensor, body) or "a captured tensor") for tensor in found.captured]
    _refuse_aliasing(operator, found.effects, names)
    written = sorted(found.effects.written)
    _refuse_writes(operator, found.effects, leaves, names)

    captured = found.captured if operator.takes_captured else ()
    captured = tuple(each for each in captured if functional_value(each) is not each)
    places = [
        index for index, leaf in enumerate(leaves) if index < len(names) - len(found.captured)
    ]
    places += [
        len(names) - len(found.captured) + index
        for index, each in enumerate(found.captured)
        if any(each is lifted for lifted in captured)
    ]
    lifted = Lifted(body, captured)

    specs: list[TreeSpec] = []

    def returning(*values: Any) -> Any:
        outputs, spec = tree_flatten(lifted(*values))
        specs.append(spec)
        given = tree_leaves(values)
        return (*outputs, *(given[places.index(index)] for index in written))

    pure = _functional(context, returning if written else lifted)
    unwrapped = context.unwrap_tensors((*operands, *captured))
    with context.redispatch_to_next():
        result = operator(pure, *unwrapped, **config)
    if written:
        values = result[specs[0].num_leaves :]
        result = tree_unflatten(result[: specs[0].num_leaves], specs[0])
        for index, value in zip(written, values, strict=True):
            context.replace(leaves[index], value)
            context.commit_update(leaves[index])
            context.sync(leaves[index])
    outputs, spec = tree_flatten(context.wrap_tensors(result))
    for index, place in found.effects.same:
        outputs[index] = leaves[place]
    return tree_unflatten(outputs, spec)


def functionalize_operator(context: Any, operator: Operator, *args: Any, **kwargs: Any) -> Any:
    """Call the operator on what the functional tensors hold.

    Raises:
        UnsupportedError: It writes to an operand, or returns one or a view of one.
    """
    unwrapped = context.unwrap_tensors(args)
    tensors = [
        (index, leaf) for index, leaf in enumerate(tree_leaves(unwrapped)) if _is_tensor(leaf)
    ]
    versions = [version_of(tensor) for _, tensor in tensors]
    with context.redispatch_to_next():
        result = operator(*unwrapped, **kwargs)
    memory = {_memory(leaf) for leaf in tree_leaves(result) if _is_tensor(leaf)}
    for (index, tensor), version in zip(tensors, versions, strict=True):
        if version_of(tensor) != version:
            raise operator.refusal(f"changes operand {index} in place", "clone it first")
        if _memory(tensor) in memory:
            raise operator.refusal(
                f"returns operand {index} or a view of it",
                "return a clone",
            )
    return context.wrap_tensors(result)


def _functional(context: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    mode = getattr(context, "mode", None) or FunctionalTensorMode()
    made: Callable[..., Any] = functionalized(function, mode)
    return made


def _see_through(context: Any, operator: Operator, *args: Any, **kwargs: Any) -> Any:
    mode = getattr(context, "mode", None)
    if mode is None:
        return operator.see_through(*args, **kwargs)
    with mode:
        return operator.see_through(*args, **kwargs)


def _refuse_aliasing(operator: Operator, effects: Effects, names: Sequence[str]) -> None:
    for index, inputs in effects.views:
        given = ", ".join(names[place] for place in sorted(inputs))
        raise operator.refusal(
            f"returns, as output {index}, a view of {given}",
            "return a clone of it",
        )
    for one, other in effects.shared:
        raise operator.refusal(
            f"returns two outputs, {one} and {other}, that share memory",
            "return a clone of one of them",
        )


def _refuse_writes(
    operator: Operator, effects: Effects, leaves: Sequence[Any], names: Sequence[str]
) -> None:
    if effects.writes_constants:
        raise operator.refusal("changes a constant in place", "pass the tensor as an operand")
    for index in effects.written:
        if not operator.runs_its_body:
            raise operator.refusal(
                f"changes {names[index]} in place, and does more than run its body",
                "return the new value instead, or clone it first",
            )
        if functional_value(leaves[index]) is leaves[index]:
            raise operator.refusal(
                f"changes {names[index]} in place, which is not part of the functionalized program",
                "pass it as an operand",
            )
        memory = _memory(functional_value(leaves[index]))
        for place, leaf in enumerate(leaves):
            if place == index or not _is_tensor(leaf):
                continue
            if _memory(functional_value(leaf)) == memory:
                raise operator.refusal(
                    f"changes {names[index]} in place, which shares memory with {names[place]}",
                    "clone one of them first",
                )


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
