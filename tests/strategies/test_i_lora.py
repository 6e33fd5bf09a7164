"""I-LoRA: its losses, state and answers against naive versions."""

import torch
import torch.nn.functional as F

from lamina.adapters.model import HEAD, MAIN
from lamina.memory.memory import Replay
from lamina.strategies.i_lora import MEMORY, MEMORY_HEAD
from nouns import after, logits_of, make_learner
from online_lora_cases import tensors_of, trained_on


def test_i_lora_halves_both_losses_and_pulls_features_up_to_the_memorys(nouns, tiny_bert):
    learner, data = after(1, "i_lora", nouns, tiny_bert, replay_size=5, consistency=3.0)
    replay = Replay(learner.memory, learner.rows, 11, "cpu")
    exemplars = replay.draw(5)
    working = learner.model(exemplars.inputs)
    remembered = learner.model(exemplars.inputs, adapters=[MEMORY]).features
    below = 0.0
    for fast, slow in zip(working.features.flatten(), remembered.flatten(), strict=True):
        target = slow if fast <= slow else fast
        below += (fast - target) ** 2 / working.features.numel()
    assert below > 0
    plain = F.cross_entropy(logits_of(learner, data), data.labels)
    replayed = F.cross_entropy(working.logits, exemplars.labels)
    loss = learner.strategy.step(learner.model, data, replay).loss
    torch.testing.assert_close(loss, (plain + replayed) / 2 + 3.0 * below, atol=1e-5, rtol=1e-4)


def test_i_lora_memory_interpolates_every_step_and_takes_new_rows_over(nouns, tiny_bert):
    learner, _ = after(1, "i_lora", nouns, tiny_bert, decay=0.9)
    strategy, model = learner.strategy, learner.model
    pairs = ((MAIN, MEMORY), (HEAD, MEMORY_HEAD))
    slow = {memory: tensors_of(learner, memory) for _, memory in pairs}
    assert strategy.state["num_steps"] == 6
    strategy.after_step(model, None)
    for working, memory in pairs:
        for key, fast in tensors_of(learner, working).items():
            known = len(slow[memory][key])
            a = min(1 - 1 / 8, 0.9)
            naive = torch.cat([a * slow[memory][key] + (1 - a) * fast[:known], fast[known:]])
            torch.testing.assert_close(model.adapters[memory].tensors[key], naive)
    assert len(model.adapters[MEMORY_HEAD].tensors["bias"]) == 4
    assert not model.adapters[MEMORY].trainable


def test_i_lora_answers_with_its_memory(nouns, tiny_bert):
    learner = make_learner("i_lora", nouns, tiny_bert)
    list(learner.learn())
    inputs = nouns.experiences[0].test.inputs
    logits = learner.strategy.predict(learner.model, inputs, None)
    by_hand = learner.model(inputs, adapters=[MEMORY], head=MEMORY_HEAD).logits
    torch.testing.assert_close(logits, by_hand)
    assert (logits - learner.model(inputs).logits).abs().max() > 1e-3


def test_i_lora_that_keeps_nothing_is_its_working_adapter_and_slower_memories_lag(nouns, tiny_bert):
    def lag(decay):
        learner = make_learner("i_lora", nouns, tiny_bert, decay=decay)
        list(learner.learn())
        fast, slow = tensors_of(learner, MAIN), tensors_of(learner, MEMORY)
        return sum((fast[k] - slow[k]).abs().sum().item() for k in fast)

    assert lag(0.0) == 0.0
    assert 0 < lag(0.5) < lag(0.95)


def test_i_lora_consistency_holds_features_up(nouns, tiny_bert):
    def below(weight):
        learner, data = after(1, "i_lora", nouns, tiny_bert, consistency=weight, decay=0.99)
        trained_on(learner, data)
        replay = Replay(learner.memory, learner.rows, 3, "cpu")
        return learner.strategy.step(learner.model, data, replay).metrics["consistency"]

    assert below(100.0) < 0.7 * below(0.0)
