"""Values of a given type from a text."""
