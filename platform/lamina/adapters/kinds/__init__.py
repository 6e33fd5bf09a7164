"""One file per adapter kind; the file's name is the kind's name in a job."""
