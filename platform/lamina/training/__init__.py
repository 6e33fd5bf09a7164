"""One trial on one stream: the learner, its settings, its reports and its checkpoints."""
