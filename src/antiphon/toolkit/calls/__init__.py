"""One call to a model: retries, circuit breaker, fallback, response cache, streaming."""
