"""How good a mask is: overlap and surface metrics, definitions named."""
