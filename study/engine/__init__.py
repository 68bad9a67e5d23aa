"""One packed forward pass: attention, adapters, norms and the output layer."""
