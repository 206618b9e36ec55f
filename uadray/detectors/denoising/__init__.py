"""What a detector by diffusion consists of: schedule, noise, sampling, and what reconstructions are worth."""
