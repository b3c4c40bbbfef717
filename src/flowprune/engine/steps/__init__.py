"""What was done to a model since it was built."""
