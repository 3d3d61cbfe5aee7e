"""What can be done about a gap: weights for training, thresholds per group, a verdict on both."""
