"""Optimizers compared with one another on a ladder of problems, from functions of two numbers to small networks."""
