"""Training with several processes: joining them and exchanging tensors."""
