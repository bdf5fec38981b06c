"""Images of the NeurIPS 2017 adversarial competition: Kurakin et al. 2018, https://arxiv.org/abs/1804.00097."""

import csv
import logging
from pathlib import Path

from data.errors import InputError, MissingError
from data.imagenet import CLASSES
from data.listing import FileDataset, Listing

log = logging.getLogger(__name__)

COLUMNS = ("ImageId", "TrueLabel")
HOW = (
    "get the development set of the competition (images.csv and images/, 299x299 PNG: "
    "https://www.kaggle.com/datasets/google-brain/nips-2017-adversarial-learning-development-set) into "
    "DATA_DIR/neurips2017"
)


class NeurIPS2017(FileDataset):
    """The 1,000 development images, RGB, with ImageNet's classes in torchvision's order; all for evaluation.

    Only images whose file exists are used, and a warning says how many they are. The list counts classes
    from 1, so a label is TrueLabel - 1.

    Args:
        root: folder that contains neurips2017/images.csv and neurips2017/images.
        size: height and width to which the whole image is resized: 224 in DDIP
            (https://arxiv.org/abs/2108.00180), 299 as published.
    """

    version = 1
    descriptive = frozenset({"root"})
    label_space = "imagenet"
    classes = CLASSES

    def __init__(self, *, root: str, size: int = 224) -> None:
        super().__init__(size=size, resize=None)
        self.folder = Path(root) / "neurips2017"

    def index(self, split: str) -> Listing:
        """Return the listing of the existing images in the list's order; ids are neurips2017/<ImageId>."""
        self.check_split(split)
        if split != "evaluation":
            raise MissingError(
                f"neurips2017 has evaluation images only, no {split} split. Choose settings on another set "
                "(dataset=imagenet split=tuning), and let a purifier learn from another: "
                "training@purifier.weights=photographs (Flower-17), or imagenet"
            )
        rows = self._rows()
        present = [(name, label, line) for name, label, line in rows if self._file(name).is_file()]
        if not present:
            raise MissingError(f"NeurIPS 2017: {(self.folder / 'images').resolve()} holds no images; {HOW}")
        if len(present) < len(rows):
            log.warning("neurips2017: %s of %s images are there", f"{len(present):,}", f"{len(rows):,}")
        return self.listing(
            ids=(f"neurips2017/{name}" for name, _, _ in present),
            labels=(label for _, label, _ in present),
            files=(self._file(name) for name, _, _ in present),
            said_in=(f"images.csv, line {line}" for _, _, line in present),
        )

    def _file(self, name: str) -> Path:
        return self.folder / "images" / f"{name}.png"

    def _rows(self) -> list[tuple[str, int, int]]:
        """Return name, label and line of every row; raise InputError for a bad row, even without an image."""
        path = self.folder / "images.csv"
        if not path.is_file():
            raise MissingError(f"NeurIPS 2017: {path.resolve()} is not there; {HOW}")
        rows: dict[str, tuple[str, int, int]] = {}
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                if lacking := [name for name in COLUMNS if name not in (reader.fieldnames or ())]:
                    raise InputError(f"{path}, line 1: expected a column {lacking[0]}, got none")
                for row in reader:
                    where, name, label = f"{path}, line {reader.line_num}", row["ImageId"], row["TrueLabel"]
                    if not name or Path(name).name != name:
                        raise InputError(f"{where}: expected an ImageId, the name of an image, got {name!r}")
                    if name in rows:
                        raise InputError(f"{where}: expected {name} once, got it in line {rows[name][2]} too")
                    if not (label or "").strip().isdecimal() or not 1 <= int(label) <= len(CLASSES):
                        raise InputError(f"{where}: expected a TrueLabel from 1 to 1000, got {label!r}")
                    rows[name] = (name, int(label) - 1, reader.line_num)
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: expected a CSV file in UTF-8, got {error}; {HOW}") from error
        return list(rows.values())
