"""What several files of merging tests share."""

from lamina.adapters.model import MAIN
from lamina.strategies.task_arithmetic import MERGED, ORIGIN
from nouns import make_learner


def trained_vectors(name, nouns, backbone, **settings):
    """A learner after all tasks, and per task what MAIN was then minus what it was at first."""
    learner = make_learner(name, nouns, backbone, **settings)
    origin = {k: v.clone() for k, v in learner.model.adapters[ORIGIN].tensors.items()}
    vectors = []
    for _ in learner.learn():
        main = learner.model.adapters[MAIN].tensors
        vectors.append({k: main[k].detach() - origin[k] for k in origin})
    return learner, origin, vectors


def merged_of(learner):
    assert learner.model.active == [MERGED]
    return learner.model.adapters[MERGED].tensors
