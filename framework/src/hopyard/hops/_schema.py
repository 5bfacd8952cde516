"""The schema of one call, in torch's form, for those of its passes that ask for one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch.fx import GraphModule

from .._torch.dispatch import HopSchemaGenerator
from .._torch.pytree import tree_leaves
from ..errors import UsageError
from ._effects import Effects, effects_of

if TYPE_CHECKING:
    from ._operator import Operator


def schema_of(operator: Operator, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Return the schema of a call: its operands, which of them it writes to, and what it returns.

    Raises:
        UsageError: The body of a region is not a graph, so that nobody knows what it does.
    """
    generator = HopSchemaGenerator(operator)
    effects = Effects()
    outputs: list[Any] = []
    operands = args
    if operator.definition.kind == "region":
        body, *operands = args  # type: ignore[assignment]
        if not isinstance(body, GraphModule):
            raise UsageError(
                f"the schema of {operator.name()} is that of a call with a graph as its body",
                hint="capture the call and ask for the schema of its node's operands",
                stage=operator.name(),
            )
        effects = effects_of(body)
        outputs = [
            getattr(leaf, "meta", {}).get("val", leaf)
            for leaf in tree_leaves(body.graph.output_node().args[0])
        ]
        generator.add_arg("body", body)
    for index, operand in enumerate(tree_leaves(operands)):
        generator.add_arg(f"operand{index}", operand, is_mutated=index in effects.written)
    for name, value in kwargs.items():
        generator.add_arg(name, value, default_value=value, kw_only=True)
    for output in outputs:
        generator.add_output(output)
    return generator.gen_schema()
