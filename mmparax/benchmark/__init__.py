"""Speed and memory of training steps beside full fine-tuning."""
