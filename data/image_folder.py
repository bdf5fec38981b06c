"""A folder of images in class folders."""

from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from data.errors import InputError, MissingError
from data.listing import FileDataset, Listing


class ImageFolder(FileDataset):
    """Images in the layout of torchvision's ImageFolder, <root>/<class>/<image>, all in the evaluation split.

    If `root` has folders named evaluation, tuning or train, each of them has the class folders of its split.
    A label is the place of its class's name in the sorted names of the folders, where an empty folder counts
    and a hidden one (".name") does not.

    Args:
        root: path of the folder.
        label_space: name of the meaning of the labels; a victim must have the same.
        name: prefix of the ids, which distinguishes this data set from others.
        size, resize: see FileDataset.
    """

    version = 1
    descriptive = frozenset({"root"})

    def __init__(
        self, *, root: str, label_space: str, name: str = "folder", size: int = 224, resize: int | None = 256
    ) -> None:
        super().__init__(size=size, resize=resize)
        self.root, self.label_space, self.name = Path(root), label_space, name
        if not self.root.is_dir():
            raise MissingError(
                f"dataset.root: {self.root} does not exist: name the folder that holds the classes"
            )
        self.divided = any((self.root / split).is_dir() for split in ("evaluation", "tuning", "train"))
        folders = [path for path in self.root.iterdir() if _is_class(path)] if self.divided else [self.root]
        self.classes = tuple(
            sorted({path.name for folder in folders for path in folder.iterdir() if _is_class(path)})
        )
        if not self.classes:
            raise InputError(f"dataset.root: expected a folder for each class in {self.root}, got none")

    def index(self, split: str) -> Listing:
        """Return the listing of a split; ids are <name>/<class>/<file>."""
        self.check_split(split)
        folder = self.root / split if self.divided else self.root
        if not folder.is_dir() or (not self.divided and split != "evaluation"):
            raise MissingError(
                f"dataset.root: {self.root} has no split {split}: make the folder {split} in it"
            )
        entries = [
            (path, label)
            for label, name in enumerate(self.classes)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in IMG_EXTENSIONS and path.is_file() and not path.name.startswith(".")
        ]
        if not entries:
            raise InputError(f"{folder}: expected images in class folders, got none")
        return self.listing(
            ids=(f"{self.name}/{path.relative_to(folder)}" for path, _ in entries),
            labels=(label for _, label in entries),
            files=(path for path, _ in entries),
        )


def _is_class(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".")
