"""What torch's own higher-order operators need of a tracer, answered by ours."""
