"""What the quantizers with one list of values for several layers share."""
