"""What a perceptual autoencoder's training has besides: growing, terms of its loss, residuals."""
