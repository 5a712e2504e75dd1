"""The API process's side of an engine: start it, supervise it, send it requests."""
