"""What a person has (files, text) -> what the model takes (tensors)."""
