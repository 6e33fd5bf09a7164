"""The server's side of a federated run: its rounds, its virtual clock, and what it counts."""
