"""Frozen feature extractors: Hugging Face encoders and vision models, with places where adapters
attach."""
