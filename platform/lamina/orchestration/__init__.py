"""Sweeps on Ray: the store, the hosts, the thin trials. The only folder that imports ray."""
