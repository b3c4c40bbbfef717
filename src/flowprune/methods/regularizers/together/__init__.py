"""Several regularizers as one, for whoever calls them: our loop and other people's."""
