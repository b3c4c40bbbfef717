"""The feature flow in other people's training loops: one file a library, which is imported there and nowhere else."""
