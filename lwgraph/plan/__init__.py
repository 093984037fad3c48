"""Sites, forms, their cost, and the choice among them."""
