"""What turns raw text or pixels into a backbone's inputs, and therefore travels with its weights."""
