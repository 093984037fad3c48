"""The choice: decisions and their options, what each costs and damages, the solver, and the search above it."""
