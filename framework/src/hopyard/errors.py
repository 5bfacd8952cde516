"""Everything Hopyard raises.

::

    HopyardError
    ├── UsageError               the caller asked for something that cannot be
    │   ├── UnknownNameError     a name nobody registered
    │   ├── OptionError          an option a pass does not have, or a value it cannot take
    │   ├── PipelineSyntaxError  pipeline text that does not parse
    │   └── OrderError           passes in an order that one of them rules out
    ├── PluginError              a plugin is broken or in conflict
    │   ├── PluginLoadError      it could not be imported, or one of its hooks raised
    │   ├── IncompatibleError    it needs another version of hopyard-hookspecs
    │   └── DuplicateNameError   two plugins claim one name
    ├── CaptureError             a program could not be captured
    │   ├── SafeguardError       its graph would misrepresent it
    │   ├── DataDependentError   it reads a value that only exists when it runs
    │   └── UnsupportedError     it uses something the tracer cannot carry
    ├── PassError                a pass failed
    │   └── VerificationError    a pass returned a graph that is not sound
    └── ProgramError             a captured program was misused
        ├── InputError           called with inputs it was not captured for
        └── ArtifactError        a file could not be written, read or trusted

    UserWarning
    └── CaptureWarning           a graph was captured that may misrepresent its program

A message reads ``who [distribution version]: what happened; what to do``. Its parts are also
attributes, so that nobody has to parse text.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.fx import Graph

    from hopyard_hookspecs import Finding, Provider, SourceLocation


class HopyardError(Exception):
    """Anything that Hopyard refuses or that fails under its hands.

    Args:
        message: What happened.
        hint: What to do about it.
        plugin: Who stands behind the code that failed, if a plugin does.
        stage: What was being done, for example `"capture"` or the name of a pass.
        location: The line of the user's source that led here.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        plugin: Provider | None = None,
        stage: str = "",
        location: SourceLocation | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.plugin = plugin
        self.stage = stage
        self.location = location

    def __str__(self) -> str:
        who = str(self.plugin) if self.plugin else self.stage
        where = f"{self.location}: " if self.location else ""
        what = f"{who}: {where}{self.message}" if who else f"{where}{self.message}"
        return f"{what}; {self.hint}" if self.hint else what


class UsageError(HopyardError):
    """The caller asked for something that cannot be."""


class UnknownNameError(UsageError):
    """A name nobody registered.

    Args:
        kind: What was looked for, for example `"pass"`.
        name: The name as given.
        valid: The names there are.
        distribution: The distribution that would provide the name, if it is known.
        status: Why it does not although it is installed, for example `"disabled"`; "" if it is not
            installed.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        valid: Iterable[str],
        *,
        distribution: str = "",
        status: str = "",
    ) -> None:
        self.kind = kind
        self.name = name
        self.valid: tuple[str, ...] = tuple(sorted(valid))
        self.closest = closest_match(name, self.valid)
        self.distribution = distribution
        self.status = status
        super().__init__(f"there is no {kind} named {name!r}", hint=self._advice())

    def _advice(self) -> str:
        known = ", ".join(self.valid) if self.valid else "none"
        valid = f"valid names: {known}"
        if self.status:
            return f"{self.distribution} has it, but its plugin is {self.status}; {valid}"
        if self.distribution:
            return f"install it with 'pip install {self.distribution}'; {valid}"
        return f"did you mean {self.closest!r}? {valid}" if self.closest else valid


class OptionError(UsageError):
    """An option a pass does not have, or a value it cannot take."""


class PipelineSyntaxError(UsageError):
    """Pipeline text that does not parse.

    Args:
        text: The whole text.
        position: Index of the character at which reading stopped.
        expected: What would have been read there.
    """

    def __init__(self, text: str, position: int, expected: str) -> None:
        self.text = text
        self.position = position
        self.expected = expected
        found = repr(text[position]) if position < len(text) else "the end"
        super().__init__(
            f"cannot read pipeline {text!r}: expected {expected} at column {position + 1}, "
            f"found {found}",
            hint="write pass,pass{option=value}",
        )


class OrderError(UsageError):
    """Passes stand in an order that one of them rules out, or one that must run is missing.

    Args:
        message: What happened.
        hint: What to do about it.
        plugin: Who registered the pass.
        stage: The pass.
        name: The pass that rules the order out.
        other: The pass that is missing or misplaced.
    """

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        plugin: Provider | None = None,
        stage: str = "",
        name: str = "",
        other: str = "",
    ) -> None:
        super().__init__(message, hint=hint, plugin=plugin, stage=stage)
        self.name = name
        self.other = other


class PluginError(HopyardError):
    """A plugin is broken or in conflict with another."""


class PluginLoadError(PluginError):
    """A plugin could not be imported, or one of its hooks raised."""


class IncompatibleError(PluginError):
    """A plugin needs another version of hopyard-hookspecs than the one installed."""


class DuplicateNameError(PluginError):
    """Two plugins claim one name.

    Args:
        kind: What both registered, for example `"pass"`.
        name: The name.
        claimants: Who registered it, in the order in which plugins were loaded.
    """

    def __init__(self, kind: str, name: str, claimants: Sequence[Provider]) -> None:
        self.kind = kind
        self.name = name
        self.claimants = tuple(claimants)
        both = " and ".join(str(claimant) for claimant in self.claimants)
        super().__init__(
            f"{both} both register a {kind} named {name!r}",
            hint="disable one of them, for example with HOPYARD_PLUGINS_DENY",
        )


class CaptureError(HopyardError):
    """A program could not be captured.

    Args:
        operator: The operator that failed, for example `"aten.mul.Tensor"`; "" if none did.

    Attributes:
        partial_graph: What had been recorded when the capture failed, if anything had.
    """

    partial_graph: Graph | None = None

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        plugin: Provider | None = None,
        stage: str = "",
        location: SourceLocation | None = None,
        operator: str = "",
    ) -> None:
        super().__init__(message, hint=hint, plugin=plugin, stage=stage, location=location)
        self.operator = operator


class SafeguardError(CaptureError):
    """The graph would misrepresent the program.

    Args:
        finding: Why.
        plugin: Who registered the safeguard.

    Attributes:
        findings: Every reason that is known: a capture that is refused when it is whole may have
            several.
    """

    def __init__(self, finding: Finding, *, plugin: Provider | None = None) -> None:
        self.finding = finding
        self.findings: tuple[Finding, ...] = (finding,)
        super().__init__(
            f"{finding.code} {finding.message}",
            hint=finding.remedy,
            plugin=plugin,
            stage=finding.safeguard,
            location=finding.location,
        )


class DataDependentError(CaptureError):
    """The program reads a value that only exists when it runs."""


class UnsupportedError(CaptureError):
    """The program uses something the tracer cannot carry."""


class CaptureWarning(UserWarning):
    """A graph was captured as torch would, and may misrepresent the program."""


class PassError(HopyardError):
    """A pass failed.

    Args:
        message: What happened.
        hint: What to do about it.
        plugin: Who registered the pass.
        stage: What was being done, for example the name of the pass.
        location: The line of the user's source that made the node at fault.
        node: The name of the node at fault, or "" if it is none in particular.

    Attributes:
        graph: In a pipeline, the graph as the pass left it, as `hopyard.pipeline.listing` writes
            graphs.
    """

    graph: str = ""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        plugin: Provider | None = None,
        stage: str = "",
        location: SourceLocation | None = None,
        node: str = "",
    ) -> None:
        super().__init__(message, hint=hint, plugin=plugin, stage=stage, location=location)
        self.node = node


class VerificationError(PassError):
    """A graph is not sound: its structure, its types or its metadata contradict each other."""


class ProgramError(HopyardError):
    """A captured program was misused."""


class InputError(ProgramError):
    """A program was called with inputs it was not captured for."""


class ArtifactError(ProgramError):
    """A file could not be written, read or trusted."""


def closest_match(name: str, valid: Iterable[str]) -> str | None:
    """Return the valid name most like `name`, or None if none is similar."""
    matches = difflib.get_close_matches(name, list(valid), n=1)
    return matches[0] if matches else None
