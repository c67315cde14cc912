"""`fit`: training driven from outside the compiled program."""
