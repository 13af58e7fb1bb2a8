"""Sources of text and images, their preparation, and the order in which they are served."""
