"""The masked sum is the plain sum to the bit, whoever falls silent; a client uncovers nobody."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from lamina.core import generator_of
from lamina.federation.privacy.combine import STAGES, SecureSum, sum_of
from lamina.federation.privacy.quantise import Quantiser
from lamina.federation.privacy.secure_sum import (
    Advertised,
    RefusedError,
    Request,
    SumAbortedError,
    SumClient,
    SumServer,
)
from lamina.registry import InputError

SESSION = b"a test"


def updates_of(num_clients: int, size: int = 5) -> dict[str, dict[str, torch.Tensor]]:
    return {
        f"client {n}": {
            "a": torch.randn(size, generator=generator_of(n, "a")) / 3,
            "b": torch.randn(2, 3, generator=generator_of(n, "b")) / 3,
        }
        for n in range(num_clients)
    }


def both_sums(updates, lost, threshold=2 / 3):
    """The total and the clients of a masked and of a plain sum, or why there is none."""
    found = []
    for mode in ("real", "ideal"):
        try:
            done = sum_of(list(updates), updates, SecureSum(mode, threshold=threshold), 0, 7, lost)
            found.append((done.clients, [done.total[name].tolist() for name in sorted(done.total)]))
        except SumAbortedError:
            found.append("aborted")
    return found


@pytest.mark.parametrize("num_clients", [2, 3, 4])
def test_the_masked_sum_is_the_plain_one_whoever_is_lost_at_whichever_stage(num_clients):
    updates = updates_of(num_clients)
    fates = [None, *STAGES]
    outcomes = set()
    for each in product(fates, repeat=num_clients):
        lost = {name: fate for name, fate in zip(updates, each, strict=True) if fate}
        masked, plain = both_sums(updates, lost)
        assert masked == plain
        enough = num_clients - len(lost) >= SecureSum().least(num_clients)
        assert (masked != "aborted") == enough
        outcomes.add(masked == "aborted")
    assert outcomes == {True, False}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("num_lost", range(6))
def test_dropouts_up_to_the_threshold_do_no_harm_and_one_more_aborts(stage, num_lost):
    updates = updates_of(9)
    lost = dict.fromkeys(list(updates)[1 : 1 + num_lost], stage)
    masked, plain = both_sums(updates, lost, threshold=0.55)
    assert masked == plain
    assert (masked == "aborted") == (num_lost > 4)


def test_the_sum_of_many_clients_with_64_kib_is_exact_with_dropouts_at_every_stage():
    updates = updates_of(30, size=16 * 1024 - 6)
    lost = {"client 3": "keys", "client 9": "shares", "client 11": "masked", "client 20": "unmask"}
    masked, plain = both_sums(updates, lost)
    assert masked == plain
    assert masked[0] == tuple(each for each in updates if lost.get(each, "unmask") == "unmask")


@pytest.mark.parametrize("num_lost", [33, 34])
def test_of_a_hundred_clients_a_third_may_leave_and_no_more(num_lost):
    updates = updates_of(100)
    lost = dict.fromkeys(list(updates)[:num_lost], "masked")
    masked, plain = both_sums(updates, lost)
    assert masked == plain
    assert (masked == "aborted") == (num_lost > 33)


def test_a_client_without_an_update_is_masked_out_of_the_sum():
    updates = updates_of(5)
    clients = [*updates, "late"]
    done = sum_of(clients, updates, SecureSum("real"), 0, 0)
    assert done.clients == tuple(updates)
    assert done.bytes_up["client 0"] > 4 * 11
    assert done.bytes_up["late"] < done.bytes_up["client 0"]
    assert done.bytes_down["late"] > 0


def test_the_quantised_sum_is_the_sum_within_a_step_for_each_client():
    updates = updates_of(6)
    plain = sum_of(list(updates), updates, SecureSum("off"), 0, 0)
    settings = SecureSum("ideal", limit=2.0)
    quantised = sum_of(list(updates), updates, settings, 0, 0)
    for name, value in plain.total.items():
        assert torch.equal(value, sum(each[name].double() for each in updates.values()))
        assert 0 < (quantised.total[name] - value).abs().max() < 6 * settings.quantiser.step


def test_no_update_at_all_is_no_sum():
    for mode in ("off", "ideal", "real"):
        with pytest.raises(SumAbortedError):
            sum_of(["a", "b"], {}, SecureSum(mode), 0, 0)


def test_a_single_client_has_no_secure_sum():
    with pytest.raises(SumAbortedError):
        sum_of(["client 0"], updates_of(1), SecureSum("real"), 0, 0)


def masked_round(num_clients=5, least=4, silent=()):
    """A secure sum up to the request for secrets, which `silent` have not answered."""
    clients = {n: SumClient(n, num_clients, least, SESSION) for n in range(1, num_clients + 1)}
    server = SumServer(num_clients, least, 8, SESSION)
    roster = server.roster([each.advertise() for each in clients.values()])
    inboxes = server.inboxes([each.share(roster) for each in clients.values()])
    words = np.arange(8, dtype=np.uint32)
    sent = [
        each.masked(words, inboxes[number])
        for number, each in clients.items()
        if number not in silent
    ]
    return clients, server, sent


def test_a_masked_vector_tells_nothing_of_its_words():
    _, _, sent = masked_round()
    streams = [np.frombuffer(each.words, dtype="<u4") for each in sent]
    assert len({stream.tobytes() for stream in streams}) == len(streams)
    assert all(not np.array_equal(stream, np.arange(8)) for stream in streams)


def test_a_server_that_asks_for_both_secrets_of_a_client_is_refused():
    clients, server, sent = masked_round(silent=(2,))
    request = server.request(sent)
    with pytest.raises(RefusedError, match=r"both secrets of \[3\]"):
        clients[1].unmask(replace(request, dropped=(2, 3)))


def test_a_server_that_asks_twice_is_refused():
    clients, server, sent = masked_round()
    clients[1].unmask(server.request(sent))
    with pytest.raises(RefusedError, match="second request"):
        clients[1].unmask(Request((1, 3, 4, 5), (2,)))


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Request((1, 2, 3), (4, 5)), "3 survivors"),
        (Request((2, 3, 4, 5), (1,)), "with this"),
        (Request((1, 2, 3, 4), ()), "others than those who shared"),
        (Request((1, 2, 3, 4, 5), (6,)), "others than those who shared"),
    ],
)
def test_a_request_that_does_not_fit_the_round_is_refused(request_, why):
    clients, _, _ = masked_round()
    with pytest.raises(RefusedError, match=why):
        clients[1].unmask(request_)


def test_a_client_refuses_a_roster_that_is_short_or_changed():
    clients = [SumClient(n, 5, 4, SESSION) for n in range(1, 6)]
    roster = [each.advertise() for each in clients]
    with pytest.raises(RefusedError, match="4 are needed"):
        clients[0].share(roster[:3])
    with pytest.raises(RefusedError, match="4 are needed"):
        clients[0].share([*roster, roster[1]])
    with pytest.raises(RefusedError, match="key twice"):
        clients[0].share([*roster[:4], replace(roster[1], sender=5)])
    with pytest.raises(RefusedError, match="without this client"):
        clients[0].share(roster[1:])
    with pytest.raises(RefusedError, match="hides nothing"):
        clients[0].share([*roster[:4], Advertised(5, bytes(32), bytes([1, *bytes(31)]))])


def test_shares_that_were_changed_or_swapped_are_refused():
    clients = {n: SumClient(n, 3, 3, SESSION) for n in (1, 2, 3)}
    server = SumServer(3, 3, 8, SESSION)
    roster = server.roster([each.advertise() for each in clients.values()])
    inboxes = server.inboxes([each.share(roster) for each in clients.values()])
    words = np.zeros(8, dtype=np.uint32)
    changed = inboxes[1][2][:-1] + bytes([inboxes[1][2][-1] ^ 1])
    with pytest.raises(RefusedError, match="client 2"):
        clients[1].masked(words, {**inboxes[1], 2: changed})
    with pytest.raises(RefusedError, match="client 1"):
        clients[2].masked(words, {1: inboxes[3][1], 3: inboxes[2][3]})


def test_wrong_shares_of_a_dropped_clients_key_abort():
    clients, server, sent = masked_round(silent=(2,))
    request = server.request(sent)
    answers = [clients[n].unmask(request) for n in (1, 3, 4, 5)]
    answers[0] = replace(answers[0], keys={2: bytes(16)})
    with pytest.raises(SumAbortedError, match="client 2"):
        server.total(answers)


def test_a_client_that_answers_with_something_else_counts_as_lost():
    clients, server, sent = masked_round()
    request = server.request(sent)
    answers = [each.unmask(request) for each in clients.values()]
    short = replace(answers[0], seeds={**answers[0].seeds, 3: b"short"})
    words = server.total([short, *answers[1:]])
    assert np.array_equal(words, 5 * np.arange(8, dtype=np.uint32))
    with pytest.raises(SumAbortedError, match="3 clients are left"):
        server.total([short, replace(answers[1], seeds={}), *answers[2:]])


def test_a_message_that_comes_twice_or_from_a_stranger_counts_once_or_not():
    clients, server, sent = masked_round()
    stranger = replace(sent[0], sender=9)
    request = server.request([*sent, sent[0], stranger, replace(sent[1], words=bytes(4))])
    assert request.survivors == (1, 2, 3, 4, 5)
    total = server.total([each.unmask(request) for each in clients.values()])
    assert np.array_equal(total, 5 * np.arange(8, dtype=np.uint32))


def test_stochastic_rounding_is_right_on_average_repeatable_and_clips():
    quantiser = Quantiser(limit=1.0, bits=4)
    value = {"x": torch.full((20_000,), 0.3)}
    words = quantiser.encode(value, 0, "round")
    assert len(np.unique(words)) == 2
    mean = quantiser.decode(words, 1, value)["x"].mean()
    assert abs(mean - 0.3) < 4 * quantiser.step / 2 / 20_000**0.5
    assert np.array_equal(words, quantiser.encode(value, 0, "round"))
    assert not np.array_equal(words, quantiser.encode(value, 0, "another round"))
    far = quantiser.encode({"x": torch.tensor([-9.0, -1.0, 1.0, 9.0])}, 0)
    assert far.tolist() == [0, 0, 15, 15]


def test_the_quantised_norm_stays_within_its_sensitivity():
    quantiser = Quantiser(limit=1.0, bits=6)
    value = torch.randn(500, generator=generator_of(0))
    update = {"x": value / value.norm()}
    found = quantiser.decode(quantiser.encode(update, 0), 1, update)["x"].norm()
    assert 1.0 < found <= quantiser.sensitivity(1.0, 500)


def test_a_sum_that_would_wrap_around_is_refused():
    Quantiser(1.0, bits=16).check_clients(65_537)
    with pytest.raises(InputError, match="at most 15"):
        Quantiser(1.0, bits=16).check_clients(65_538)
    with pytest.raises(InputError, match="not finite"):
        Quantiser(1.0).encode({"x": torch.tensor([float("nan")])}, 0)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match="did you mean 'real'"):
        SecureSum("rael")
    with pytest.raises(InputError, match="threshold"):
        SecureSum(threshold=0.5)
    with pytest.raises(InputError, match="bits"):
        SecureSum(bits=32)
    with pytest.raises(InputError, match="limit"):
        SecureSum(limit=0.0)
