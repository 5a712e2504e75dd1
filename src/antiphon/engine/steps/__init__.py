"""The step loop: run a scheduled batch, hand the outputs to the tasks that asked for them."""
