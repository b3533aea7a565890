"""The content of a rollout: items and lines, old forms, turns, search text."""
