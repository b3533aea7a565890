"""Keeps index and files in step: rebuild, refresh, import, doctor, compression."""
