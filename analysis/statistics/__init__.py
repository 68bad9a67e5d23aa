"""Estimators, tests and verdicts as pure functions of scores."""
