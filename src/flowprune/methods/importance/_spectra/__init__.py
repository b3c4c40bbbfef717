"""Nuclear norms of feature maps: Gram matrices and their spectra."""
