"""`sweep`: many training runs at once, and their results."""
