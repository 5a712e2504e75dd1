"""The processes of a server: start, worker pool, shutdown."""
