"""Where jobs run: worker processes, devices, launched processes, progress."""
