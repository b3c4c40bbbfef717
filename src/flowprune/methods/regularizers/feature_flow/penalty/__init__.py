"""The penalty on the differences, forward and backward."""
