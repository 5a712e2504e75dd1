"""Python functions that a model can call."""
