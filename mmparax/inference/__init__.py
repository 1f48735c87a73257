"""Predictions of trained models, their metrics and pictures."""
