"""Predictions, their metrics and pictures."""
