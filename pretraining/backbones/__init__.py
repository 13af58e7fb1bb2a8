"""Networks behind one interface: `Features` of every position, and one pooled vector per example."""
