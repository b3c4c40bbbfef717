"""What makes one point of a flow comparable with the next, and their differences."""
