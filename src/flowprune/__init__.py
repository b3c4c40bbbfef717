"""flowprune: train with feature flow regularization, prune, and get back an ordinary smaller model."""
