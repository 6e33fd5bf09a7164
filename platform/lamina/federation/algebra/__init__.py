"""Pure functions of named tensors that aggregators, optimisers, server and client share."""
