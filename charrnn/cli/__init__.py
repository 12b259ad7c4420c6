"""The terminal: one file a command; the only room that prints, reads keys, or knows click and rich."""
