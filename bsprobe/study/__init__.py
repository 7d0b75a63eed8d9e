"""Short trainings with each effective batch over the same images, and their comparison."""
