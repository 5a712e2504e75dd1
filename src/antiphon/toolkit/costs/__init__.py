"""What calls cost: prices, budgets, reports, the choice of a model."""
