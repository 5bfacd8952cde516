"""Captures above autograd and autocast, whose graphs hold both as the program wrote them."""
