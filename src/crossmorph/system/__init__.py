"""The machine: output files, processes and locks, memory, versions and hardware."""
