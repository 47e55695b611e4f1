"""The simulated engine's inner loops, compiled: an engine is one array of integers, and functions over it."""
