"""What a run is checked for: data, model, gradients, schedule."""
