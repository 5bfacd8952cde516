"""Safeguards against captures that lose autograd state."""
