"""Networks that are made at random, and what lwgraph must make of each of them."""
