"""From a trained model to text; NumPy, no torch."""
