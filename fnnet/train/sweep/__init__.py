"""`sweep`: many runs, and what came of them."""
