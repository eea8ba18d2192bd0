"""A dataset in folders of image files, one folder a class."""

from collections.abc import Iterator
from pathlib import Path

from trimlab import progress
from trimlab.config import Data, DatasetSource
from trimlab.data.decode import SUFFIXES
from trimlab.data.files import Labelled, and_more, parts_of_files
from trimlab.data.parts import Part
from trimlab.errors import UserError

LAYOUT = "lay images out as {0}/train/CLASS and {0}/test/CLASS, or as {0}/CLASS"


def read_folder(source: DatasetSource, data: Data) -> tuple[Part, Part, list[str]]:
    """Read train/CLASS and test/CLASS, or CLASS alone with a test set that is drawn; subfolders belong to a class.

    Raises:
        UserError: the folders are laid out otherwise, or a class lacks training or test images.
    """
    path, passed_over = Path(source.path), list[Path]()
    if _has_parts(path):
        train, test = (_labelled(path / part, path, passed_over) for part in ("train", "test"))
        passed_over += [entry for entry in _entries(path) if entry.name not in ("train", "test")]
    else:
        train, test = _labelled(path, path, passed_over), None
    if passed_over:
        progress.say(
            f"{passed_over[0]} is left out{and_more(len(passed_over) - 1, 'entry', 'entries')}: images lie in class "
            f"folders, and their names end in one of {', '.join(sorted(SUFFIXES))}"
        )
    return parts_of_files(train, test, source, data)


def _has_parts(path: Path) -> bool:
    """Return whether a folder holds train/ and test/, rather than class folders.

    Raises:
        UserError: it holds one of them, and that holds class folders.
    """
    parts = [part for part in ("train", "test") if (path / part).is_dir()]
    if len(parts) == 1 and not any(_is_image(entry) for entry in _entries(path / parts[0])):
        other = "test" if parts == ["train"] else "train"
        raise UserError(f"{path} holds {parts[0]} and no {other}: {LAYOUT.format(path)}")
    return len(parts) == 2


def _labelled(folder: Path, root: Path, passed_over: list[Path]) -> list[Labelled]:
    """Return the images in each class folder, in order; what is no image is added to `passed_over`.

    Raises:
        UserError: an image is in no class folder, or a class folder holds none.
    """
    images: list[Labelled] = []
    for entry in _entries(folder):
        if not entry.is_dir():
            if _is_image(entry):
                raise UserError(f"{entry} is in no class folder: {LAYOUT.format(root)}")
            passed_over.append(entry)
            continue
        files = list(_files(entry))
        chosen = [(file, entry.name) for file in files if _is_image(file)]
        if not chosen:
            raise UserError(f"{entry} holds no images: add images, or remove the folder")
        images += chosen
        passed_over += [file for file in files if not _is_image(file)]
    if not images:
        raise UserError(f"{folder} holds no class folders: {LAYOUT.format(root)}")
    return images


def _is_image(file: Path) -> bool:
    return file.suffix[1:].lower() in SUFFIXES and not file.is_dir()


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and its subfolders, in order.

    Raises:
        UserError: something is neither a file nor a folder, or a link leads back to where it lies.
    """
    for entry in _entries(folder):
        if entry.is_dir():
            if entry.is_symlink() and folder.resolve().is_relative_to(entry.resolve()):
                raise UserError(f"{entry} links to a folder that it lies in: remove it")
            yield from _files(entry)
        elif entry.is_file():
            yield entry
        else:
            raise UserError(f"{entry} is not a regular file: remove it")


_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "__macosx"}
"""What desktops leave in folders, besides hidden files."""


def _entries(folder: Path) -> list[Path]:
    """Return what lies in a folder, in order, without hidden and desktop files; nothing if it does not exist."""
    try:
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}): change its permissions") from None
    return [entry for entry in entries if not entry.name.startswith(".") and entry.name.lower() not in _LEFT_BEHIND]
