"""Numbers of bits that differ from channel to channel: grids of weights, clipped activations, and what they cost."""
