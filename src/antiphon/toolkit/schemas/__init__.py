"""JSON Schemas from Python types."""
