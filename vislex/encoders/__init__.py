"""Vision encoders: pixels to ``VisionTokens``."""
