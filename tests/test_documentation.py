"""The documentation is current, short enough and complete, and its pages request nothing from a server."""

import re
import subprocess
import sys

import pytest
from omegaconf import OmegaConf

from runners import app, usage
from runners.places import CONFIGS
from runners.tables import console
from scripts import document

ROOT = CONFIGS.parent
DOCS = ROOT / "docs"
COMMANDS = [
    "evaluate",
    "table",
    "report",
    "claims",
    "trace",
    "replay",
    "log_wandb",
    "dashboard",
    "vision_api",
]


@pytest.mark.parametrize("name", document.PAGES)
def test_pages_that_are_made_from_the_code_are_current(name):
    page = (DOCS / name).read_text(encoding="utf-8")
    assert page == document.PAGES[name](), "run python -m scripts.document"


def test_the_readme_shows_what_the_command_prints():
    text = document.README.read_text(encoding="utf-8")
    assert document.readme(text, document.table()) == text, "run python -m scripts.document"
    assert max(map(len, document.table().splitlines())) <= console.WIDTH


def test_the_block_between_the_markers_is_replaced_and_nothing_else():
    text = f"before\n{document.BEGIN}old\n{document.END}\nafter\n"
    result = document.readme(text, "new\n")
    assert result == f"before\n{document.BEGIN}```text\nnew\n```\n{document.END}\nafter\n"
    assert document.readme(result, "new\n") == result


def test_the_readme_is_short():
    assert len(document.README.read_text(encoding="utf-8").split()) < 900


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\(([^)#]+)\)", document.README.read_text(encoding="utf-8"))
    files = [link for link in links if not link.startswith("https://")]
    assert len(files) > 20
    assert [link for link in files if not (ROOT / link).is_file()] == []


def test_every_page_is_in_the_navigation_and_nothing_is_loaded_from_elsewhere():
    site = OmegaConf.to_container(OmegaConf.load(ROOT / "mkdocs.yml"))
    in_navigation = [page for section in site["nav"] for pages in section.values() for page in pages]
    assert sorted(in_navigation) == sorted(path.name for path in DOCS.glob("*.md"))
    assert site["strict"]
    assert site["theme"]["font"] is False
    assert not {"repo_url", "extra_javascript", "extra"} & set(site)
    styles = [
        (document.README.parent / "docs" / name).read_text(encoding="utf-8") for name in site["extra_css"]
    ]
    assert not any("url(" in style or "@import" in style for style in styles)


@pytest.mark.parametrize("config", COMMANDS)
def test_help_has_one_line_for_every_setting(config):
    composed = OmegaConf.load(CONFIGS / f"{config}.yaml")
    settings = {line.name: line for line in usage.settings_of(config)}
    assert set(composed) - {"defaults", "hydra"} <= set(settings)
    assert [name for name, line in settings.items() if not line.meaning] == []
    lines = usage.text(config, "It does something.").splitlines()
    assert [line for line in lines if len(line) > 160] == []


def test_every_command_has_three_examples():
    helps = re.findall(r"## (\S+)\n\n```text\n(.*?)```", document.commands(), flags=re.DOTALL)
    assert len(helps) >= 12
    few = {"runners.store", "scripts.survival", "scripts.ship"}
    for module, output in helps:
        examples = re.findall(rf"^    (?:WANDB_MODE=offline )?python -m {re.escape(module)}\b", output, re.M)
        assert len(examples) >= 3 or module in few, module


WITHOUT_TORCH = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    assert "torch" not in sys.modules
"""


def test_help_is_printed_before_pytorch_is_imported():
    command = [sys.executable, "-c", WITHOUT_TORCH, "runners.table", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  only=[] " in done.stdout
    assert "python -m runners.table table=ddip/table1 n=16" in done.stdout


def test_help_ends_well_when_nobody_reads_it():
    command = f"{sys.executable} -m runners.evaluate --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0"
    assert done.stderr == ""


def test_other_flags_are_left_to_hydra(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--cfg", "job"])
    assert app.refuse_unknown_names("evaluate") is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -m runners.evaluate attack=apgd", "apgd apgd-dlr"),
        ("python -m runners.evaluate -m purifier=none,jp", "none,jpeg"),
        ("python -m runners.table table=ddip/table", "ddip/table1 ddip/table2 ddip/table3"),
        ("python -m runners.evaluate purifier=jpeg bud", "budget_hours="),
        ("python -m runners.table on", "only="),
        ("python -m runners.evaluate nothing=", ""),
        ("python other.py att", ""),
    ],
)
def test_completion_in_bash(line, expected):
    script = (
        'source scripts/completion.bash; COMP_LINE="$1" COMP_POINT=${#1}; _purifybench; '
        'printf "%s\\n" "${COMPREPLY[@]}" | sort | xargs'
    )
    done = subprocess.run(["bash", "-c", script, "-", line], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == (expected, "")
