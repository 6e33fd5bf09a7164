"""A client's side of a federated run: what needs a backbone."""
