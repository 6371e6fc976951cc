"""Registration methods scored side by side on a list of pairs."""
