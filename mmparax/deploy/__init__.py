"""Running what was trained: merged weights, several tasks on one base, stand-alone checkpoints, ONNX."""
