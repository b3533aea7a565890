"""The files of a home: rollouts, names, locks, quarantine."""
