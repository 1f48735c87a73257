"""Running what was trained: merged weights, several tasks on one trunk, stand-alone checkpoints, ONNX."""
