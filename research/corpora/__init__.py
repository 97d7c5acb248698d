"""Scripts that collect or render audio for pretraining, and make the development tasks."""
