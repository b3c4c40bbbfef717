"""What criteria that look at weights share."""
