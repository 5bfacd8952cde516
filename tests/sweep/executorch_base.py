"""Our pass base in the place of ExecuTorch's."""

from __future__ import annotations

from types import ModuleType

from hopyard_export_pass import ExportPass, NodeMetadata, ProxyValue


def ours(theirs: ModuleType) -> type[ExportPass]:
    """Return our base, with what ExecuTorch's offers beyond torch's: calls that read sizes."""

    class Rebased(ExportPass):
        call_size_operator = theirs.ExportPass.call_size_operator
        call_size_operator_all = theirs.ExportPass.call_size_operator_all

    return Rebased


def replace(module: ModuleType, base: type[ExportPass]) -> None:
    """Let whoever imports from the module of ExecuTorch's base get another one, and our values."""
    vars(module).update(
        ExportPass=base, _ExportPassBase=base, NodeMetadata=NodeMetadata, ProxyValue=ProxyValue
    )
