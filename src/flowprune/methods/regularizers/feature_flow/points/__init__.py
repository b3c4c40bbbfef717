"""Where the features of a network are taken down."""
