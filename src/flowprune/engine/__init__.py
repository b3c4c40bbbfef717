"""Which slices of a network leave together, what a cut is, and the proof that it is right; knows no method."""
