"""The base of passes that replay a graph node by node through callbacks."""
