"""Image networks behind `Backbone`."""
