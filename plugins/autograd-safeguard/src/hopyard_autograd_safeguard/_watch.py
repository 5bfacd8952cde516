"""What the safeguard watches, and how it judges."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import Graph, Node

from hopyard.safeguards import autocast_changed, inference_mode_changed, set_grad_enabled
from hopyard_hookspecs import Finding, Moment, ObservedCall, Recording, Suspicion, Watch

from ._hazards import AUTOCAST_LOST, GRAD_MODE_CHANGED, GRAD_MODE_LOST, INFERENCE_MODE_LOST
from ._recast import recast


def watch() -> Watch:
    """Return what to look at during one capture.

    `no_grad`, `enable_grad` and `set_grad_enabled`, as functions, decorators and context managers,
    all end in the one function that is watched for them.
    """
    blocks = Blocks()
    return Watch(
        functions={
            set_grad_enabled: blocks.grad_mode,
            inference_mode_changed: blocks.inference_mode,
            autocast_changed: blocks.autocast,
        }
    )


@dataclass(slots=True)
class Block:
    """A part of a recording under another mode than what surrounds it; open until it ends."""

    start: Moment
    end: Moment | None = None

    def nodes(self, recording: Recording) -> list[Node]:
        """Return what was recorded in it."""
        return list(recording.between(self.start, self.end))


@dataclass(slots=True)
class Blocks:
    """The blocks of one capture, each judged when all is recorded.

    A change of the grad mode begins a block, and the next ends it: there are but two modes. The
    body of a region is recorded in a graph of its own.
    """

    _grad_modes: dict[Graph, Block] = field(default_factory=dict)
    _inference: Block | None = None
    _autocast: Block | None = None

    def grad_mode(self, call: ObservedCall) -> Suspicion | None:
        """Suspect a change of the grad mode.

        A call that sets the mode to what it already is changes nothing, and captures above autograd
        record the change.
        """
        requested, current = bool(call.args[0]), torch.is_grad_enabled()
        if call.pre_dispatch or requested == current:
            return None
        ending = self._grad_modes.pop(call.moment.graph, None)
        if ending is not None:
            ending.end = call.moment
            return None
        block = self._grad_modes[call.moment.graph] = Block(call.moment)
        lost = (
            "gradients are enabled inside the captured program, which its graph cannot show: "
            "gradients that the program records would be missing from the graph"
            if requested
            else "gradients are disabled inside the captured program, which its graph cannot show: "
            "gradients that the program stops would flow in the graph"
        )
        finding = Finding(GRAD_MODE_LOST.code, lost)
        judge = _recorded if requested else _stopped
        return Suspicion(finding, lambda recording: judge(finding, block, recording))

    def inference_mode(self, call: ObservedCall) -> Suspicion | None:
        """Suspect a block under `inference_mode`, which no capture records."""
        enabled, location = call.args
        if not enabled:
            if self._inference is not None:
                self._inference.end, self._inference = call.moment, None
            return None
        block = self._inference = Block(call.moment)
        finding = Finding(
            INFERENCE_MODE_LOST.code,
            "the inference mode is on inside the captured program, which its graph cannot show: "
            "gradients that the program stops would flow in the graph",
            location=location,
        )
        return Suspicion(finding, lambda recording: _stopped(finding, block, recording))

    def autocast(self, call: ObservedCall) -> Suspicion | None:
        """Suspect a block in which autocast, on around the program, is off or another."""
        again, location = call.args
        if call.pre_dispatch:
            return None
        if again:
            if self._autocast is not None:
                self._autocast.end, self._autocast = call.moment, None
            return None
        if self._autocast is not None:
            return None
        block = self._autocast = Block(call.moment)
        finding = Finding(AUTOCAST_LOST.code, "", location=location)
        return Suspicion(finding, lambda recording: _recast(finding, block, recording))


def _stopped(finding: Finding, block: Block, recording: Recording) -> Finding:
    """Judge a block that stops gradients."""
    flow = recording.gradient_flow
    return _first(finding, [node for node in block.nodes(recording) if flow.carries(node)])


def _recorded(finding: Finding, block: Block, recording: Recording) -> Finding:
    """Judge a block that records gradients where none are recorded: only results can tell."""
    flow = recording.gradient_flow
    inside = [node for node in block.nodes(recording) if flow.carries(node)]
    if recording.result is not None and any(_has_history(each) for each in recording.result):
        return _first(finding, inside)
    returned = recording.graph.output_node().all_input_nodes
    return _first(finding, [node for node in inside if node in returned])


def _recast(finding: Finding, block: Block, recording: Recording) -> Finding | None:
    for node in block.nodes(recording):
        kind = recast(node)
        if kind is not None:
            what = (
                f"autocast is off or another inside the captured program, which its graph cannot "
                f"show: run under autocast, {node.name} would compute in {kind}"
            )
            return Finding(finding.code, what, location=finding.location)
    return None


def _first(finding: Finding, nodes: list[Node]) -> Finding:
    if not nodes:
        return Finding(
            GRAD_MODE_CHANGED.code,
            "the grad mode changes inside the captured program, and nothing that has a gradient "
            "passes through",
            location=finding.location,
        )
    return Finding(
        finding.code, f"{finding.message}, first through {nodes[0].name}", location=finding.location
    )


def _has_history(value: object) -> bool:
    return isinstance(value, Tensor) and value.requires_grad and not value.is_leaf
