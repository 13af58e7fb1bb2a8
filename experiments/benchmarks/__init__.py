"""Speed, measured beside peers in one run; each prints one JSON object last."""
