"""The hazards that the safeguard reports."""

from __future__ import annotations

from hopyard_hookspecs import Hazard

HOOK_LOST = Hazard(
    code="HY111",
    title="a hook on a gradient is registered while tracing",
    remedy="register the hook outside of what is captured, on a parameter or an input, or write "
    "what it does into a custom operator's backward (torch.library.register_autograd)",
    page="docs/reference/hazards/HY111.md",
)
"""A graph has no hooks: gradients through it are what its operators say."""

GRADIENT_NOT_RETAINED = Hazard(
    code="HY112",
    title="the gradient of a result is retained while tracing",
    remedy="call retain_grad() on what the captured program returns",
    page="docs/reference/hazards/HY112.md",
)
"""The result of the graph is another tensor, whose `grad` remains None."""

BACKWARD_LOST = Hazard(
    code="HY113",
    title="a custom autograd.Function runs while tracing",
    remedy="make it a custom operator (torch.library.custom_op with register_autograd), which a "
    "graph holds as one node, or allow it if its backward is the derivative of its forward",
    page="docs/reference/hazards/HY113.md",
)
"""A graph holds the operators of its forward, and their derivative is taken instead of the
backward that was written.
"""

DETACHMENT_LOST = Hazard(
    code="HY114",
    title="autograd's view of a tensor is changed in place while tracing",
    remedy="use the result of x.detach(), which the graph holds, in place of x from then on",
    page="docs/reference/hazards/HY114.md",
)
"""`detach_`, `requires_grad_`, and assignments to `data` and `requires_grad` are no operators."""
