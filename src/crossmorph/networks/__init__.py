"""The networks, the hierarchy that they form, its weights and their cards."""
