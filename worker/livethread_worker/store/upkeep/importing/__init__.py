"""Imports existing rollouts into a home: finds and identifies them, plans, and copies."""
