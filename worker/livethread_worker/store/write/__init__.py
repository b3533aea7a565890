"""Applies ordered tasks to rollouts and index."""
