"""What a gap may come from: cases that drive it, sizes and scanners, and who was trained on."""
