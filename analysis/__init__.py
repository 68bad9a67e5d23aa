"""Judge runs: turn records into numbers, decisions and verdicts."""
