"""Claims ready threads, applies their tasks and settles: what a doorbell starts."""
