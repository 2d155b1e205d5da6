"""The messages between owner and job: pickles, and values that a job returned or exceptions that it
raised."""
