"""Rollout files: reading them tolerantly, and the one way of writing them."""
