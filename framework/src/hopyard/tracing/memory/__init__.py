"""The operators that a capture has seen, and how it makes their results again."""
