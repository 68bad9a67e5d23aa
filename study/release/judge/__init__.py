"""Which of two answers is better, by a reward model or by a model behind an endpoint."""
