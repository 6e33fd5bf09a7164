"""Where a sweep and its trials put down what they did: JSON lines, MLflow, pictures of R."""
