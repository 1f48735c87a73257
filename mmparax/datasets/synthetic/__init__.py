"""Synthetic scenes and glyphs with ground truth."""
