"""Numbers that are known only when the program runs, and the nodes that compute them."""
