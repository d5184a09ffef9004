"""Diffusion of continuous tokens: noise schedules and samplers, whatever the tokens stand for."""
