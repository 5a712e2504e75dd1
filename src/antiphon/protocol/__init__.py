"""What is said on the wire: requests, responses, events, errors. Pure data, no I/O."""
