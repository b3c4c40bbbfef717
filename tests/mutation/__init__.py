"""Mutants of the engine: one fault at a time, and the trial that says who noticed."""
