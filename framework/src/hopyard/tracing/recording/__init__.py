"""What a capture writes: nodes, what they compute, and which node stands for which value."""
