"""From one graph to another: a graph is run node by node, and what it does is recorded."""
