"""All of Ray Data and Ray Core: Data for trainings, Core for screenings."""
