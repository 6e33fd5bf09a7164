"""A sweep on Ray Tune: thin trials, search, halving, verification."""
