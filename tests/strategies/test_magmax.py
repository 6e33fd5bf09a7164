"""MagMax: its losses, state and answers against naive versions."""

import torch

from lamina.adapters.model import MAIN
from merging_cases import merged_of, trained_vectors
from nouns import after, make_learner


def test_magmax_goes_on_from_the_last_task(nouns, tiny_bert):
    learner = make_learner("magmax", nouns, tiny_bert)
    next(learner.learn())
    main = {k: v.clone() for k, v in learner.model.adapters[MAIN].tensors.items()}
    again, _ = after(1, "magmax", nouns, tiny_bert)
    assert all(torch.equal(main[k], again.model.adapters[MAIN].tensors[k]) for k in main)


def test_magmax_keeps_each_entrys_largest_change_since_the_start(nouns, tiny_bert):
    learner, origin, vectors = trained_vectors("magmax", nouns, tiny_bert, weight=0.7)
    for name, tensor in merged_of(learner).items():
        stacked = torch.stack([each[name] for each in vectors])
        largest = stacked.gather(0, stacked.abs().argmax(0, keepdim=True))[0]
        torch.testing.assert_close(tensor, origin[name] + 0.7 * largest, atol=1e-6, rtol=1e-5)
