"""Take the picture of the report that README.md shows, with Chromium.

    python -m scripts.picture

The report of results/tables/ddip-table1-cifar10-resnet56.csv is drawn into a temporary folder. A screenshot
of its page, reduced to 256 colours, becomes docs/images/report.png.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from data.errors import MissingError
from runners.app import tell
from runners.places import CONFIGS

ROOT = CONFIGS.parent
TABLE = "ddip-table1-cifar10-resnet56"
WIDTH, HEIGHT = 1280, 775


def main() -> None:
    """Write docs/images/report.png; raise MissingError without Chromium."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        raise MissingError("the picture needs Chromium: install the package chromium")
    with TemporaryDirectory() as folder:
        words = [f"only={TABLE}", f"report={folder}"]
        subprocess.run([sys.executable, "-m", "runners.report", *words], cwd=ROOT, check=True)
        shot = Path(folder) / "shot.png"
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={WIDTH},{HEIGHT}"]
        page = (Path(folder) / f"{TABLE}.html").as_uri()
        subprocess.run([chromium, *options, f"--screenshot={shot}", page], check=True, capture_output=True)
        target = ROOT / "docs" / "images" / "report.png"
        Image.open(shot).convert("RGB").quantize(256).save(target, optimize=True)
    tell(f"{target}: {target.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
