"""Rate and distortion: the curves of the units, and the levels of the least distortion."""
