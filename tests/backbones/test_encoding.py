"""How long texts may be, and how many are cut."""

import pytest
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from lamina.backbones.encoding import cut_note, load_encoder
from lamina.backbones.locate import locate
from lamina.registry import InputError
from lamina.streams import ScenarioSettings, Table, make_stream


@pytest.fixture(scope="module")
def minilm():
    return locate("minilm")


def texts_of(encoder, *lengths):
    """Texts of so many tokens, with those that a tokenizer adds."""
    added = encoder.tokenizer.num_special_tokens_to_add()
    return [" ".join(["word"] * (length - added)) for length in lengths]


@pytest.mark.parametrize("max_length", [None, 20])
def test_a_text_is_cut_only_beyond_the_longest(minilm, max_length):
    encoder = load_encoder(minilm, max_length)
    most = max_length or 256
    assert encoder.max_length == most
    texts = texts_of(encoder, 3, most - 1, most, most + 1, 5 * most)
    assert encoder.num_cut(texts) == 2
    lengths = encoder(texts)["attention_mask"].sum(dim=1).tolist()
    assert lengths == [3, most - 1, most, most, most]


def test_letters_that_become_several_tokens_count_as_such(minilm):
    encoder = load_encoder(minilm, 12)
    texts = ["你好世界" * 3, "…" * 5, "ﷺ" * 4, "a" * 4, "你好", "word " * 2]
    whole = encoder.tokenizer(texts)["input_ids"]
    assert encoder.num_cut(texts) == sum(len(tokens) > 12 for tokens in whole) > 0


def test_cut_texts_are_noted_with_counts_over_all_parts(minilm):
    encoder = load_encoder(minilm, 8)
    texts = [f"number {n}" if n % 3 else f"number {n}" + " word" * 10 for n in range(60)]
    labels = [str(n % 2) for n in range(60)]
    table = Table("text", texts, labels, ["0", "1"])
    stream = make_stream(table, ScenarioSettings("class_incremental", num_tasks=2), seed=0)
    note = cut_note(stream, encoder)
    assert (note["texts"], note["of"], note["max_length"]) == (20, 60, 8)
    noted = stream.with_notes(note)
    assert noted.notes == (
        "20 of 60 texts are longer than 8 tokens and are cut (backbone.max_length)",
    )
    assert noted.record["digest"] == stream.record["digest"]
    assert cut_note(stream, load_encoder(minilm, None)) is None


@pytest.mark.parametrize("max_length", [513, 99_999])
def test_more_than_a_model_can_take_is_refused(minilm, max_length):
    with pytest.raises(
        InputError, match=rf"^backbone\.max_length: {max_length} is more than .* 3 to 512, or null"
    ):
        load_encoder(minilm, max_length)
    assert load_encoder(minilm, 512).max_length == 512


def test_no_room_for_a_word_is_refused(minilm):
    with pytest.raises(InputError, match=r"^backbone\.max_length: 2 leaves no room .* 3 to 512"):
        load_encoder(minilm, 2)


@pytest.mark.parametrize(("family", "most"), [("bert", 40), ("roberta", 38)])
def test_positions_that_stand_for_padding_take_no_token(family, most, tiny_bert_folder, tmp_path):
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_bert_folder)
    tokenizer.model_max_length = int(1e30)
    tokenizer.save_pretrained(tmp_path)
    config_of, model_of = {
        "bert": (BertConfig, BertModel),
        "roberta": (RobertaConfig, RobertaModel),
    }[family]
    config = config_of(
        vocab_size=len(tokenizer),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=40,
        pad_token_id=1 if family == "roberta" else 0,
    )
    model = model_of(config).eval()
    model.save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), None)
    assert encoder.max_length == most
    with pytest.raises(InputError, match=rf"^backbone\.max_length: {most + 1} is more"):
        load_encoder(str(tmp_path), most + 1)
    with torch.no_grad():
        found = model(input_ids=torch.full((1, most), 3)).last_hidden_state
    assert found.isfinite().all()
