"""Backbones, adapters, prompts and the embedding cache."""
