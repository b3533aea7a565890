"""Brings existing rollouts into a home: finds them, says whose they are, decides, copies."""
