"""A cache of the teacher's hidden states on disk: the teacher runs once per data set."""
