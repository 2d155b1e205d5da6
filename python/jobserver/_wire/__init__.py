"""What travels between owner and job: pickles, and what a job returned or raised."""
