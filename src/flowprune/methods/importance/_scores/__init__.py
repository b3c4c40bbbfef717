"""From the scores of single tensors to one number per channel, comparable between layers."""
