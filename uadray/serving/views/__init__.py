"""What a page shows of screenings and of slides."""
