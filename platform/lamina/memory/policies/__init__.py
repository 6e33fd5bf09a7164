"""One file per memory policy; the file's name is the policy's name in a job."""
