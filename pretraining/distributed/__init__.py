"""Several processes as one: collectives, batch normalisation, sharded weights, and which rank this is."""
