"""Reads threads from the index and the rollouts."""
