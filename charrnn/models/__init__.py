"""The networks; torch."""
