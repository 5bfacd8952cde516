"""A Hopyard backend for a machine that executes tapes of elementwise operations."""
