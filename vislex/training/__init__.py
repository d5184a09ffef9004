"""Training on ``transformers.Trainer``: parts, feature cache, EMA, meter."""
