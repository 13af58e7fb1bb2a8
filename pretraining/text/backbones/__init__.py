"""Text networks behind `Backbone`."""
