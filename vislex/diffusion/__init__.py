"""Diffusion: noise schedules and samplers of continuous tokens, and frozen text-to-image models."""
