"""Every task from hand-off to number, beside its never-pretrained twin and a classical model."""
