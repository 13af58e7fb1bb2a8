"""What a pretrained network says of examples, as vectors: in Python (`load`) and by `python -m pretraining.embed`."""
