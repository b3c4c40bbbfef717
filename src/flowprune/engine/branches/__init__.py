"""Residual branches made physically smaller: live ends only, put into the stream at their places; empty branches gone."""
