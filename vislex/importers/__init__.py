"""Checkpoints of other programs, read into vislex's own models; no code of a checkpoint is ever run."""
