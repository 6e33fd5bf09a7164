"""Federated streams: what clients send, how it is combined, in which order and under which privacy.
Pure: no Ray, no files."""
