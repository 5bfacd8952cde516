"""Where in the user's program a node comes from."""
