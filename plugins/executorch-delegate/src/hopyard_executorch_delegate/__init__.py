"""Calls from a captured graph into a lowered partition, ExecuTorch's delegates included."""
