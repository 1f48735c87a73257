"""What one wants to know of a model: parameters and, later, speed and features."""
