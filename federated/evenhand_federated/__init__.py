"""Hospitals training one adapter together: Flower client, server and simulation."""
