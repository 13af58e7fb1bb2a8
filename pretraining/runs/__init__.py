"""A run is its directory: files, history, where numbers come from."""
