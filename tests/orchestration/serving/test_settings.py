"""What may be served where, and which words mean which bundles."""

import pytest

from lamina.orchestration.serving.selection import select_bundles
from lamina.orchestration.serving.settings import ServingSettings, check_access, read_token
from lamina.registry import InputError
from served_bundles import write_served


def test_others_than_this_machine_need_a_token():
    for host in ("127.0.0.1", "127.0.0.53", "::1", "localhost"):
        check_access(ServingSettings(host=host), None)
    for host in ("0.0.0.0", "::", "192.0.2.2", "example.org", "localhost.example.org"):
        check_access(ServingSettings(host=host), "a token of more than sixteen")
        with pytest.raises(InputError, match=f"--host: {host!r} can be reached"):
            check_access(ServingSettings(host=host), None)


def test_a_token_is_taken_out_of_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LAMINA_TOKEN", "a" * 16)
    assert read_token(None) == "a" * 16
    assert read_token(None) is None
    path = tmp_path / "token"
    path.write_text("b" * 16 + "\n")
    monkeypatch.setenv("LAMINA_TOKEN", "a" * 16)
    assert read_token(path) == "b" * 16


@pytest.mark.parametrize("content", ["", "short", "a" * 16 + "\n" + "b" * 16, "ü" * 16])
def test_what_is_no_token_is_refused_without_being_said(content, tmp_path):
    path = tmp_path / "token"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="holds no token") as raised:
        read_token(path)
    assert not content or content not in str(raised.value)


@pytest.mark.parametrize("key", ["replicas", "threads", "max_rows", "batch_rows", "seconds"])
def test_limits_are_positive(key):
    with pytest.raises(InputError, match=f"serve.{key}: 0 is not positive"):
        ServingSettings(**{key: 0})


@pytest.fixture(scope="module")
def runs(tiny_bert, tiny_bert_folder, tmp_path_factory):
    """Two jobs' output folders, of one trial and of two."""
    folder = tmp_path_factory.mktemp("runs")
    for job, names in (("first", ["ncm"]), ("second", ["ncm", "simplecil"])):
        for name in names:
            place = folder / job / "run" / name
            place.mkdir(parents=True)
            write_served(name, place, tiny_bert, tiny_bert_folder).rename(place / "bundle")
    return folder


def test_words_mean_the_best_trial_one_by_name_or_all(runs):
    assert list(select_bundles([f"mine={runs / 'first'}"])) == ["mine"]
    assert set(select_bundles([f"{runs / 'second'}"], ["all"])) == {"ncm", "simplecil"}
    assert set(select_bundles([f"{runs / 'second'}"], ["ncm", "simplecil"])) == {"ncm", "simplecil"}
    both = select_bundles([f"old={runs / 'first'}", f"{runs / 'second'}"], ["ncm"])
    assert set(both) == {"old", "ncm"}
    # The same bundle meant twice is one.
    assert set(select_bundles([f"{runs / 'second'}"], ["ncm", "ncm-0"])) == {"ncm"}


def test_two_bundles_of_one_name_are_refused(runs):
    with pytest.raises(InputError, match="2 bundles are called 'ncm'"):
        select_bundles([str(runs / "first"), str(runs / "second")], ["ncm"])


def test_a_folder_may_have_an_equals_sign_in_its_name(runs):
    moved = (runs / "first").rename(runs / "lr=3")
    try:
        assert list(select_bundles([str(moved)])) == ["ncm"]
    finally:
        moved.rename(runs / "first")


def test_a_file_that_was_changed_is_found(runs):
    path = next((runs / "first").rglob("predictions.csv"))
    content = path.read_bytes()
    path.write_bytes(content + b" ")
    try:
        with pytest.raises(InputError, match="is damaged"):
            select_bundles([str(runs / "first")])
    finally:
        path.write_bytes(content)
