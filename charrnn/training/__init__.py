"""From text to a trained model; torch."""
