"""What a rollout says: items and lines, old forms, turns, search text."""
