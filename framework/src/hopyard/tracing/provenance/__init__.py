"""Where in the user's program a node comes from.

::

    Origin ─┬─ inherited metadata   the node that is being copied
            ├─ stack traces         the lines that led here
            ├─ ModuleStack          the modules whose calls have not returned
            └─ FunctionNotes        the torch function that was called last

An :class:`~hopyard.tracing.provenance._origin.Origin` marks each node of one graph when it is made;
the others are what it asks.
"""
