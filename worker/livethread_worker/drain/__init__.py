"""Claims ready threads, applies their tasks, and settles: the loop behind a doorbell."""
