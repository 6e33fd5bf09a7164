"""What several tests need: MiniLM, tiny random backbones, small streams."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray's own niceness of 15 would let its processes starve beside another process of tests.
os.environ.setdefault("RAY_worker_niceness", "0")

import gc
import stat
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from lamina.backbones.backbone import Backbone
from lamina.backbones.load import load_backbone
from lamina.backbones.locate import locate
from lamina.backbones.settings import BackboneSettings
from lamina.core import Batch, Stream
from lamina.streams import ScenarioSettings, build_stream, source_class
from lamina.training import packing_size
from language_models import write_model
from nouns import nouns_stream, shapes_stream

torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Where several processes share the files, those that start Ray come first, then those with
    most tests: what is left for the end, when one process waits for the others, is short."""
    if hasattr(config, "workerinput"):
        number = Counter(item.path for item in items)
        starts_ray = {item.path for item in items if item.get_closest_marker("ray")}
        items.sort(key=lambda item: (item.path not in starts_ray, -number[item.path]))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """What frozen layers make of samples is kept for the tests only."""
    os.environ["LAMINA_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def disk_order(monkeypatch):
    """What is brought to the disk and moved in a test, in order: the size of each file, "moved",
    and "names" for a folder."""
    order = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        order.append("names" if is_folder else os.fstat(descriptor).st_size)
        fsync(descriptor)

    def note_replace(*paths):
        order.append("moved")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    return order


@pytest.fixture(scope="session")
def ray_cluster():
    """Ray on this machine, with two cores, for all tests of a process that need one."""
    from lamina.orchestration.cluster import cluster

    with ExitStack() as stack:
        stack.enter_context(cluster(num_cpus=2))
        yield
        with warnings.catch_warnings():
            # Ray does not wait for every process that it has ended.
            warnings.filterwarnings("ignore", "subprocess .* is still running", ResourceWarning)
            stack.close()
            gc.collect()


@pytest.fixture(scope="module")
def few_comparisons():
    """How many trials pay in a pack is found out by few and short comparisons, which is no matter
    where the result is the same however many are packed: seconds for each kind of trial."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("PAIRS", 2), ("CLEAR_PAIRS", 2), ("LONG_ENOUGH", 0.0)):
            patch.setattr(packing_size, name, value)
        yield


@pytest.fixture(scope="session")
def minilm() -> Backbone:
    """The real MiniLM."""
    return load_backbone(BackboneSettings("minilm"))


@pytest.fixture(scope="session")
def tiny_bert_folder(tmp_path_factory) -> Path:
    """A random BERT of two layers with MiniLM's tokenizer, as a folder."""
    folder = tmp_path_factory.mktemp("tiny_bert")
    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(locate("minilm")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_bert(tiny_bert_folder) -> Backbone:
    """A random BERT of two layers."""
    return load_backbone(BackboneSettings(str(tiny_bert_folder)))


@pytest.fixture(scope="session")
def tiny_language_model(tmp_path_factory) -> Path:
    """A random three-layer Llama with MiniLM's words."""
    return write_model("llama", tmp_path_factory.mktemp("tiny-llama"))


@pytest.fixture(scope="session")
def tiny_vit_folder(tmp_path_factory) -> Path:
    """A random vision transformer of two layers for 32-pixel images, as a folder."""
    folder = tmp_path_factory.mktemp("tiny_vit")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=32,
        patch_size=8,
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_vit(tiny_vit_folder) -> Backbone:
    """A random vision transformer of two layers."""
    return load_backbone(BackboneSettings(str(tiny_vit_folder)))


@pytest.fixture(scope="session")
def sentences(tiny_bert) -> Batch:
    """Six sentences of different lengths, as BERT takes them."""
    texts = [
        "turn on the light",
        "is the door open",
        "set a timer for five minutes please",
        "stop",
        "what is the temperature in the living room right now",
        "play some music",
    ]
    from lamina.core import Samples

    return tiny_bert.encode(Samples(texts, torch.tensor([0, 1, 2, 0, 1, 2]), torch.arange(6)))


def small_assistant(
    backbone: Backbone, limit: int = 6, num_tasks: int | None = None
) -> Stream[Batch]:
    """A small class-incremental stream of voice commands."""
    source = source_class("assistant")()
    settings = ScenarioSettings("class_incremental", num_tasks=num_tasks, limit_per_class=limit)
    return backbone.encode_stream(build_stream(source, settings, seed=0))


@pytest.fixture(scope="session")
def commands(minilm) -> Stream[Batch]:
    """A small class-incremental stream for MiniLM: about 200 training sentences in six tasks."""
    return small_assistant(minilm)


@pytest.fixture(scope="session")
def nouns(tiny_bert):
    """The small stream for the tiny BERT."""
    return nouns_stream(tiny_bert)


@pytest.fixture(scope="session")
def minilm_nouns(minilm):
    """The small stream for MiniLM."""
    return nouns_stream(minilm)


@pytest.fixture(scope="session")
def shapes(tiny_vit):
    """The small stream of pictures for the tiny vision transformer."""
    return shapes_stream(tiny_vit)
