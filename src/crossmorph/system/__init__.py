"""The machine: files that appear whole, processes and locks, memory, versions and hardware."""
