"""Who answers: a model in this machine, an API elsewhere, or a script."""
