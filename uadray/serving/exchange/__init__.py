"""What every request and answer meets, whatever its route."""
