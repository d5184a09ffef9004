"""Blocks that several parts of vislex use."""
