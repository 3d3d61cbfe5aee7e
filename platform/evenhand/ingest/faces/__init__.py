"""Faces in head volumes: whether there may be one, how it is removed, and what is left of it."""
