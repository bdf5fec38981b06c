"""The folders of the project in its clone."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
WEIGHTS = ROOT / "results" / "weights"  # trained weights that come with the project
