"""Exporting a bundle: a folder to hand on, and the Hugging Face hub."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lamina.bundles.bundle import ADAPTERS, FACTS, Bundle, read_file
from lamina.bundles.card import card_of
from lamina.bundles.classifier import why_not_plain, write_classifier
from lamina.bundles.predictor import Predictor, load_predictor
from lamina.files import replacing_folder
from lamina.registry import InputError

CLASSIFIER = "classifier"
CARD = "README.md"


@dataclass(frozen=True)
class Exported:
    """The files that were written."""

    folder: Path
    not_plain: str | None
    """Why there is no plain classifier, or, of a language model, no adapter that answers by itself
    under PEFT; None where there is one."""


def export_bundle(bundle: Bundle, folder: Path) -> Exported:
    """Write a bundle with a model card and, where it is a plain adapter with a linear head, a
    classifier that plain transformers loads; a language model's adapters are there for PEFT anyway.
    All of it, or nothing.

    Raises InputError where the folder is there, or a file of the bundle is damaged.
    """
    if folder.exists():
        raise InputError(f"OUT: {str(folder)!r} is there already (allowed: a new folder)")
    # Where the plain classifier, which it is compared with, is made.
    predictor = load_predictor(bundle, "cpu")
    with replacing_folder(folder) as unfinished:
        not_plain = _write(predictor, unfinished)
    return Exported(folder, not_plain)


def _write(predictor: Predictor, folder: Path) -> str | None:
    """Fill the folder. Returns why there is nothing plain in it, or None where there is."""
    bundle = predictor.bundle
    for name in bundle.facts.files:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(read_file(bundle.folder, name, bundle.facts))
    shutil.copy(bundle.folder / FACTS, folder / FACTS)
    not_plain = why_not_plain(predictor)
    if not_plain is None and bundle.facts.answers == "classes":
        try:
            write_classifier(predictor, folder / ADAPTERS, folder / CLASSIFIER)
        except ValueError as error:
            not_plain = str(error)
            shutil.rmtree(folder / CLASSIFIER, ignore_errors=True)
    (folder / CARD).write_text(card_of(predictor, not_plain), encoding="utf-8")
    return not_plain


def push(folder: Path, repository: str) -> str:
    """Send an exported folder to a repository of the hub, made where there is none. Returns its
    address.

    Raises InputError where the hub refuses, or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    hub = HfApi()
    try:
        address = hub.create_repo(repository, exist_ok=True, private=True)
        hub.upload_folder(repo_id=repository, folder_path=folder)
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"--push: {repository!r}: {first}") from error
    return str(address)
