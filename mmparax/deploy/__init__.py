"""Deployment: merged weights, several tasks on one base, stand-alone checkpoints, ONNX."""
