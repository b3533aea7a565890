"""A Prometheus exporter. It keeps no numbers: each scrape asks Redis, which counts for all hosts.

`families` turns what Redis says into metrics, `exporter` serves them. Only the command line imports this package, which
needs the extra ``metrics``.
"""
