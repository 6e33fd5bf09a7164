"""A backbone's folder on a machine that does not have it."""

import pytest
import torch

from lamina.backbones import locate
from lamina.backbones.content import backbone_digest
from lamina.backbones.copies import content_of, is_folder, keep_copy
from lamina.backbones.load import load_backbone
from lamina.backbones.settings import BackboneSettings
from lamina.registry import InputError

ELSEWHERE = "/nowhere/of/this/machine"


@pytest.fixture(autouse=True)
def _without_copies(monkeypatch, tmp_path):
    monkeypatch.setattr(locate, "_STAND_INS", {})
    monkeypatch.setenv("LAMINA_CACHE", str(tmp_path))


def test_a_copy_answers_as_the_folder_and_goes_by_its_name(tiny_bert_folder, tiny_bert, sentences):
    assert is_folder(str(tiny_bert_folder))
    assert not is_folder("minilm")
    with pytest.raises(InputError, match="there is no folder"):
        load_backbone(BackboneSettings(ELSEWHERE))
    folder = keep_copy(ELSEWHERE, content_of(str(tiny_bert_folder)))
    assert backbone_digest(ELSEWHERE) == backbone_digest(str(tiny_bert_folder))
    copy = load_backbone(BackboneSettings(ELSEWHERE))
    with torch.no_grad():
        assert torch.equal(copy(sentences.inputs).features, tiny_bert(sentences.inputs).features)
    assert locate.public_name(ELSEWHERE) == ELSEWHERE
    assert keep_copy(ELSEWHERE, content_of(str(tiny_bert_folder))) == folder
    assert [each.name for each in folder.parent.iterdir()] == [folder.name]
