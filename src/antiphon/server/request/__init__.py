"""One HTTP request: body, headers, checks, limits, answer."""
