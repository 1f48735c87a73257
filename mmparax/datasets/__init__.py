"""SVHN, the user's own masks, the order of samples in a resumed run; in ``synthetic`` scenes and glyphs with ground truth."""
