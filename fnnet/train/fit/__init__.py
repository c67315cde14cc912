"""`fit`: training in a loop around a compiled program."""
