"""Caption decoders: ``VisionTokens`` to token ids."""
