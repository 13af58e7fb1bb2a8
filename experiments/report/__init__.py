"""From results to tables, figures and words."""
