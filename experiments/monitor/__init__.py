"""What runs are doing now."""
