"""What a trained model's features and gates say: effective receptive field, similarity of blocks (CKA), routing."""
