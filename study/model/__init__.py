"""The base model, its adapter and the workbench that holds both."""
