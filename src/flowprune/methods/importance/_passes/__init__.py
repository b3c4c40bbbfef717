"""The model run on data: batches, gradients, full precision."""
