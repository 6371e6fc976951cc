"""What the commands do: files in, files out; and the same for images in memory."""
