"""What waits goes to a replica together, in turn, and gets its own answer."""

import asyncio

from lamina.orchestration.serving.batching import Batcher
from lamina.orchestration.serving.question import Question


def question(name, rows=1):
    return Question("bundle", [name] * rows, None, 1)


def run(ask, *, batch_rows=8, most_under_way=1, seconds=0.01):
    """The batches that were sent, as names, and what `ask` returns, given a batcher."""
    batches = []

    async def send(questions):
        batches.append([each.values[0] for each in questions])
        await asyncio.sleep(seconds)
        return [list(each.values) for each in questions]

    async def all_of_it():
        limits = {"batch_rows": batch_rows, "max_waiting_rows": 10**6}
        return await ask(Batcher(send, most_under_way=most_under_way, **limits))

    return batches, asyncio.run(all_of_it())


async def together(batcher, questions):
    return await asyncio.gather(*(batcher.ask(each) for each in questions))


def test_what_comes_at_the_same_time_is_one_batch():
    questions = [question(name) for name in "abc"]
    batches, answers = run(lambda batcher: together(batcher, questions))
    assert batches == [["a", "b", "c"]]
    assert answers == [["a"], ["b"], ["c"]]


def test_a_question_that_comes_alone_does_not_wait_for_others():
    async def ask(batcher):
        first = asyncio.create_task(batcher.ask(question("a")))
        await asyncio.sleep(0.005)
        return [await batcher.ask(question("b")), await first]

    batches, answers = run(ask)
    assert batches == [["a"], ["b"]]
    assert answers == [["b"], ["a"]]


def test_a_batch_has_no_more_rows_than_allowed_but_for_a_question_of_more():
    sizes = {"a": 5, "b": 3, "c": 1, "d": 20, "e": 8}
    questions = [question(name, rows) for name, rows in sizes.items()]
    batches, answers = run(lambda batcher: together(batcher, questions))
    assert batches == [["a", "b"], ["c"], ["d"], ["e"]]
    assert [len(each) for each in answers] == list(sizes.values())


def test_as_many_batches_are_under_way_as_replicas_take():
    under_way = []

    async def ask():
        async def send(questions):
            under_way.append(len(under_way))
            await asyncio.sleep(0.01)
            most.append(len(under_way))
            under_way.pop()
            return [list(each.values) for each in questions]

        most = []
        limits = {"batch_rows": 1, "max_waiting_rows": 100}
        batcher = Batcher(send, most_under_way=3, **limits)
        await together(batcher, [question(name) for name in "abcdefgh"])
        return max(most)

    assert asyncio.run(ask()) == 3


def test_what_nobody_waits_for_any_more_is_not_computed():
    async def ask(batcher):
        first = asyncio.create_task(batcher.ask(question("a")))
        await asyncio.sleep(0.002)
        given_up = asyncio.create_task(batcher.ask(question("b")))
        await asyncio.sleep(0)
        given_up.cancel()
        last = await batcher.ask(question("c"))
        return [await first, last]

    batches, answers = run(ask)
    assert batches == [["a"], ["c"]]
    assert answers == [["a"], ["c"]]
