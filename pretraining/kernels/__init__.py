"""Hand-written kernels in C and autograd, each behind one call."""
