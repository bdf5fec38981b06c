"""Clean images with a purifier.

    python -m runners.purify in/ out/ purifier=jpeg
    python -m runners.purify in/ out/ purifier=jpeg purifier.quality=50
    python -m runners.purify in/ out/ purifier=tvm seed=1

The first folder holds images, and the second one receives the cleaned images.
"""

from runners import app

if __name__ == "__main__":
    import sys

    from runners.words import placed

    sys.argv[1:] = placed(sys.argv[1:], ("images", "out"))
    app.refuse_unknown_names("purify")

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms.functional import pil_to_tensor
from torchvision.utils import save_image

from data.errors import InputError
from data.images import as_rgb, check_images
from data.memory import within_memory
from data.process_state import restored
from purifiers.purifier import Purifier, PurifierError
from runners.composition import composed
from runners.evaluate import settings_of
from runners.evaluation.component import seed_of, to_plain_dict
from runners.evaluation.devices import configure_torch
from runners.evaluation.stages import Worker
from runners.evaluation.weights import ComponentLoader
from runners.files import folder, writable
from runners.store.store import Store

FAULTS = (PurifierError, RuntimeError, ValueError)  # of a purifier


@dataclass(frozen=True)
class Cleaner:
    """A loaded purifier with everything that is needed to call it.

    Args:
        victim: passed to purifiers that read the victim's answers; None for the others.
        seed: determines, with an image's name, all random draws for the image.
        chunk: how many images are cleaned together.
    """

    purifier: Purifier
    victim: nn.Module | None
    device: torch.device
    seed: int
    chunk: int

    @classmethod
    def of(cls, config: DictConfig) -> "Cleaner":
        """Return the purifier of a composed config; its weights are verified, or trained if missing."""
        settings = settings_of(config)
        if settings.chunk < 1:
            raise InputError(f"chunk: expected at least 1 image, got {settings.chunk}")
        device = configure_torch(settings.device, tf32=settings.tf32)
        worker = Worker(Store(settings.store), device, settings.precision)
        loader = ComponentLoader(worker.store, device, app.console, settings.budget_hours)
        purifier = worker.load(loader.load(to_plain_dict(config.purifier), "purifier", "purifier"))
        victim = None
        if purifier.uses_victim:
            victim = worker.load(loader.load(to_plain_dict(config.victim), "victim", "victim"))
        return cls(purifier, victim, device, settings.seed, settings.chunk)

    def __call__(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """Return the cleaned images (N, C, H, W) in [0, 1], on the device of the given images."""
        seeds = [seed_of(self.seed, name, "purify") for name in names]

        def cleaned(part: slice) -> Tensor:
            given = images[part].to(self.device)
            return self.purifier(given, seeds=seeds[part], victim=self.victim).to(images.device)

        parts, _ = within_memory(cleaned, len(images), min(self.chunk, len(images)))
        return torch.cat(parts)


def purify(
    images: Tensor | Path | str,
    purifier: str = "ddip",
    *,
    out: Path | str | None = None,
    overrides: Sequence[str] = (),
    config_dir: Path | str | None = None,
) -> Tensor | list[Path]:
    """Clean a batch of images, or all images of a folder.

    Args:
        images: a tensor (N, C, H, W) of float32 values in [0, 1], or a folder of image files.
        purifier: the name of a config.
        out: the folder that the cleaned images of a folder are written to, as PNG files.
        overrides: further words of the command line, such as "purifier.quality=50" or "seed=1".
        config_dir: a folder with configs of your own.

    Returns the cleaned tensor, or the files that were written. Raises InputError for what cannot be cleaned,
    and FailedCellsError if some files of a folder could not be cleaned; the others are written.
    """
    words = [f"purifier={purifier}", *overrides]
    if isinstance(images, Tensor):
        if out is not None:
            raise InputError("out: expected it for a folder of images only, got it for a tensor")
        check_images(images, name="images")
        if not len(images):
            raise InputError("images: expected at least one, got none")
    elif out is None:
        raise InputError("out: expected the folder to write the cleaned images to, got none")
    else:
        files, target = image_files(Path(images)), _target(Path(images), Path(out))
    config, _ = composed("purify", words, config_dir=config_dir)
    with restored(torch.device("cpu")):
        cleaner = Cleaner.of(config)
        if isinstance(images, Tensor):
            return _whole(cleaner, images)
        return clean_files(cleaner, Path(images), files, target)


def _whole(cleaner: Cleaner, images: Tensor) -> Tensor:
    """Return the cleaned batch. Raises FailedCellsError with one line if the purifier is at fault."""
    try:
        return cleaner(images, [str(index) for index in range(len(images))])
    except InputError:
        raise
    except FAULTS as error:
        raise app.FailedCellsError(_line(error)) from error


def image_files(where: Path) -> list[Path]:
    """Return the image files of a folder and its subfolders. Raises InputError if there are none."""
    if not where.is_dir():
        raise InputError(f"images: expected a folder of images, got {where}, which is none")
    files = sorted(p for p in where.rglob("*") if p.suffix.lower() in IMG_EXTENSIONS and p.is_file())
    if not files:
        raise InputError(f"images: expected image files ({', '.join(IMG_EXTENSIONS)}), got none in {where}")
    count = Counter(file.with_suffix(".png") for file in files)
    if twice := next((file for file, times in count.items() if times > 1), None):
        raise InputError(f"images: expected files of different names, got several that become {twice.name}")
    return files


def _target(images: Path, out: Path) -> Path:
    if out.resolve() == images.resolve() or images.resolve() in out.resolve().parents:
        raise InputError(
            f"out: expected a folder outside of {images}, so that no image is overwritten; got {out}"
        )
    return writable(out)


def clean_files(cleaner: Cleaner, where: Path, files: Sequence[Path], out: Path) -> list[Path]:
    """Clean image files of one folder into another; consecutive files of one size are cleaned together."""
    written: list[Path] = []
    faults: list[str] = []
    for group in _groups(files, cleaner.chunk, faults):
        names = [str(file.relative_to(where)) for file, _ in group]
        try:
            cleaned = cleaner(torch.stack([image for _, image in group]), names)
        except FAULTS as error:
            faults.append(f"{names[0]} to {names[-1]}: {_line(error)}")
            continue
        for name, image in zip(names, cleaned, strict=True):
            path = (out / name).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            save_image(image, path)
            written.append(path)
    if faults:
        raise app.FailedCellsError(f"{len(written)} of {len(files)} images cleaned; first fault: {faults[0]}")
    return written


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _groups(files: Sequence[Path], size: int, faults: list[str]) -> Iterator[list[tuple[Path, Tensor]]]:
    """Yield files with their images, up to `size` of one shape; unreadable files are added to `faults`."""
    group: list[tuple[Path, Tensor]] = []
    for file in files:
        try:
            with Image.open(file) as opened:
                image = pil_to_tensor(as_rgb(ImageOps.exif_transpose(opened))).float() / 255
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            faults.append(f"{file}: expected an image, got one that cannot be read ({error})")
            continue
        if group and (len(group) == size or group[0][1].shape != image.shape):
            yield group
            group = []
        group.append((file, image))
    if group:
        yield group


def main(config: DictConfig) -> None:
    """Clean the images of the folder `images` into the folder `out`."""
    OmegaConf.resolve(config)
    where = folder(config.images, "images")
    files, out = image_files(where), _target(where, folder(config.out, "out"))
    written = clean_files(Cleaner.of(config), where, files, out)
    app.tell(f"{len(written)} images: {out}")


if __name__ == "__main__":
    app.run(main, "purify")
