"""Many pictures: which files they are, a journal of what is done, and a run that survives outages and interruptions."""
