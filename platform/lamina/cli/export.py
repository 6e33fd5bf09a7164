"""`lamina export`: a bundle to hand on."""

from pathlib import Path

from lamina.bundles import find_bundle, open_bundle
from lamina.bundles.exporting import CLASSIFIER, export_bundle, push
from lamina.cli.console import stdout


def export_to(path: Path, folder: Path, *, trial: str | None, repository: str | None) -> None:
    """Write the folder, say what is in it, and push it where a repository is named.

    Raises InputError where the bundle cannot be read, the folder is there, or the hub refuses.
    """
    console = stdout()
    done = export_bundle(open_bundle(find_bundle(path, trial)), folder)
    console.print(f"{folder}: the bundle, with a model card", soft_wrap=True)
    if done.not_plain is None:
        console.print(f"{folder / CLASSIFIER}: a model of plain transformers", soft_wrap=True)
    else:
        console.print(f"no plain classifier: {done.not_plain}", markup=False, soft_wrap=True)
    if repository is not None:
        console.print(f"{push(folder, repository)}: a private repository", soft_wrap=True)
