"""Speech in minutes on two cores: what was run is in README.md."""
