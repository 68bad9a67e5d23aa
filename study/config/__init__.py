"""What a study is asked to do: recipes, digests, seeds, claims, the environment."""
