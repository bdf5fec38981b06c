"""The documentation can be followed: its commands exist and end as the pages say."""

import pytest

from scripts import walk

DOCS = walk.ROOT / "docs"


def test_blocks_are_commands_files_and_expected_failures(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- walk -->\n```bash\necho a\n```\n\n```bash\nnot run\n```\n"
        "<!-- walk: a/b.txt -->\n```yaml\nx: 1\n```\n<!-- walk: status 3 -->\n```bash\nexit 3\n```\n"
    )
    assert list(walk.steps(page)) == [
        walk.Step("page", "echo a\n"),
        walk.Step("page", "x: 1\n", file="a/b.txt"),
        walk.Step("page", "exit 3\n", status=3),
    ]
    folder = tmp_path / "copy"
    assert [walk.follow(step, folder) for step in walk.steps(page) if step.file] == [True]
    assert (folder / "a" / "b.txt").read_text() == "x: 1\n"
    commands = [step for step in walk.steps(page) if step.file is None]
    assert [walk.follow(step, folder) for step in commands] == [True, True]


def test_a_command_that_ends_otherwise_is_told(tmp_path, capsys):
    assert not walk.follow(walk.Step("page", "echo why >&2; exit 1\n"), tmp_path)
    output = capsys.readouterr().out
    assert "WRONG, status 1" in output
    assert "why" in output


def test_a_page_that_is_not_there_is_refused_with_those_that_are(capsys):
    with pytest.raises(SystemExit, match="2"):
        walk.main(["nowhere"])
    assert "expected pages of" in (output := capsys.readouterr().err)
    assert "test-your-purifier" in output


def test_start_and_the_short_tutorials_have_steps():
    for page in ("index", "regenerate-a-table", "test-your-purifier", "your-table", "your-attack"):
        assert [step for step in walk.steps(DOCS / f"{page}.md") if step.file is None], page


@pytest.mark.slow
@pytest.mark.parametrize("page", ["index", "regenerate-a-table", "test-your-purifier", "your-table"])
def test_a_page_can_be_followed(page):
    assert walk.main([page]) == 0
