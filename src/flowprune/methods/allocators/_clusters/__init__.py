"""How many different feature maps a layer has."""
