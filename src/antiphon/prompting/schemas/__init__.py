"""JSON Schema into a grammar that the compiler can hold."""
