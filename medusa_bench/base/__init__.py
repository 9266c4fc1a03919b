"""What every package stands on: errors, files, documents, quantities."""
