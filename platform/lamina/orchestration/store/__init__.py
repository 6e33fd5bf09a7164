"""The shared store: trials, reports, checkpoints, memories and adapters of a sweep, on disk."""
