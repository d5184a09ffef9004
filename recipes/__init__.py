"""Recipes: one short module each, with configurations beside."""
