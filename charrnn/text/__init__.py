"""What text is before and after it is numbers."""
