"""`lamina export`: a bundle to hand on."""

from pathlib import Path

from lamina.bundles import find_bundle, open_bundle
from lamina.bundles.bundle import ADAPTERS
from lamina.bundles.exporting import CLASSIFIER, export_bundle, push
from lamina.cli.console import stdout


def export_to(path: Path, folder: Path, *, trial: str | None, repository: str | None) -> None:
    """Write the folder, say what is in it, and push it where a repository is named.

    Raises InputError where the bundle cannot be read, the folder is there, or the hub refuses.
    """
    console = stdout()
    bundle = open_bundle(find_bundle(path, trial))
    done = export_bundle(bundle, folder)
    says_texts = bundle.facts.answers == "tokens"
    plain = "adapter of plain PEFT" if says_texts else "classifier"
    console.print(f"{folder}: the bundle, with a model card", soft_wrap=True)
    if done.not_plain is not None:
        console.print(f"no plain {plain}: {done.not_plain}", markup=False, soft_wrap=True)
    elif says_texts:
        console.print(f"{folder / ADAPTERS}: for plain transformers and PEFT", soft_wrap=True)
    else:
        console.print(f"{folder / CLASSIFIER}: a model of plain transformers", soft_wrap=True)
    if repository is not None:
        console.print(f"{push(folder, repository)}: a private repository", soft_wrap=True)
