"""One file a decoding method."""
