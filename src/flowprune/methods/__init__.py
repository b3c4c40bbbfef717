"""The methods of the literature, one file each, by what they are."""
