"""The JSON record beside a transform: how it was made."""
