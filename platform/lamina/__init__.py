"""Lamina: parameter-efficient continual fine-tuning on one frozen backbone.

`lamina.core` has the nouns; `platform/README.md` is the map of the rooms.
"""
