"""Data sets with one schema a task, and safe readers of images and JSONL."""
