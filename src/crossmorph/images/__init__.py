"""Reading and writing of image files in all formats, as arrays with their geometry."""
