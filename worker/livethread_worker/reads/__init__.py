"""Reads for clients on other hosts: taken from Redis, answered in pieces."""
