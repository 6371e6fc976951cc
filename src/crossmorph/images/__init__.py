"""Image files of every format to arrays with their geometry, and back."""
