"""The description and the references of a table, which a paper's appendix needs."""

import re

import yaml

from runners import cite
from runners.places import CONFIGS

ROOT = CONFIGS.parent


def test_a_tables_setting_and_its_bibtex(command):
    status, out, err = command(cite.main, "cite", "table=ddip/ddn", "n=500", "seed=3")
    assert status == 0, err
    text, _, bibtex = out.partition("@software")
    assert "500 images of digits-photos (split evaluation, subset random, seed 3)" in text
    assert "Attacks: ddn" in text
    assert "python -m runners.table table=ddip/ddn n=500 seed=3" in text
    for arxiv_id in ("2108.00180", "1811.09600", "1711.10925", "1912.01703"):  # DDIP, DDN, DIP, PyTorch
        assert bibtex.count(f"url = {{https://arxiv.org/abs/{arxiv_id}}}") == 1
    assert bibtex.count("{") == bibtex.count("}")


def test_an_unknown_table_is_one_line(command):
    status, _, err = command(cite.main, "cite", "table=ddip/table9")
    assert status == 2
    assert "no table is called 'ddip/table9'" in err


def test_references_are_named_once_and_whole():
    text = cite.REFERENCES.read_text()
    keys = re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)
    assert len(keys) == len(set(keys)) == len(cite.references())
    for entry in cite.references().values():
        assert {"author", "title", "year", "url"} <= set(re.findall(r"^  (\w+) =", entry, re.MULTILINE))


def test_each_paper_that_purifiers_and_attacks_link_to_has_its_entry():
    texts = [
        path.read_text() for folder in ("purifiers", "attacks") for path in (ROOT / folder).rglob("*.py")
    ]
    links = {link.rstrip(".:") for text in texts for link in cite.LINK.findall(text)}
    links = {link for link in links if "arxiv.org" in link or "doi.org" in link}
    assert len(links) > 50
    assert links <= set(cite.references()), sorted(links - set(cite.references()))


def test_the_citation_file_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert citation["version"] == version
    assert citation["authors"] == [{"name": "the purifybench authors"}]
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
