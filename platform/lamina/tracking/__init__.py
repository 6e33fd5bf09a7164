"""Where a sweep and its trials record what they did: JSON lines, MLflow, pictures of R."""
