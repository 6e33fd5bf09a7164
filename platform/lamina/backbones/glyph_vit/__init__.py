"""A small vision transformer of the project's own: its weights, the pictures it learned from, and
the recipe."""
