"""What this plugin raises beyond Hopyard's own errors."""

from __future__ import annotations

from hopyard.errors import PassError
from hopyard_hookspecs import Provider


class DelegationError(PassError):
    """A backend failed, or did something else than it promised, while a program was delegated.

    Attributes:
        plugin: Who registered the backend.
        backend: The backend's name.
        partition: Number of the partition in the program, from 0; None if the backend failed before
            there were partitions.
    """

    def __init__(
        self,
        message: str,
        *,
        backend: str,
        partition: int | None = None,
        plugin: Provider | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint, plugin=plugin, stage="delegate")
        self.backend = backend
        self.partition = partition
