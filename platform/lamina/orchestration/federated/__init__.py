"""A federated run: chunks of clients' work, pools of workers, rounds on disk."""
