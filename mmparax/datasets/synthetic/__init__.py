"""Synthetic scenes with ground truth for every task, and the glyphs on which the mini backbones were pre-trained."""
