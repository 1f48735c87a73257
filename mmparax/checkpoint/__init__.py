"""Files of weights: reading, layouts, the base of a trunk."""
