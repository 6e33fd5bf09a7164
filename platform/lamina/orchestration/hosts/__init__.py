"""Hosts: Ray Train workers that hold frozen backbones and train the trials that they claim."""
