"""What criteria that look at feature maps share."""
