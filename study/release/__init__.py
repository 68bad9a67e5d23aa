"""From a finished run to what others use: models, answers and benchmark scores."""
