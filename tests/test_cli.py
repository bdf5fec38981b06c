"""Bad input on the command line gives status 2 and one line: what is wrong, and what there is instead."""

import logging
import os
import re
import subprocess
import sys

import pandas as pd
import pytest
from rich.console import Console

from runners import app, evaluate, table
from runners.places import CONFIGS
from scripts import fetch, train


@pytest.fixture
def run(command, tmp_path):
    """Return a function that runs a command with a store and records of its own."""
    places = f"store={tmp_path}/store", f"records={tmp_path}/records"
    return lambda main, config, *words, **more: command(main, config, *words, *places, **more)


QUICK = ["victim.weights.epochs=1", "victim.weights.dataset.copies=1"]  # a training that takes a second


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["attack=pdg"], "no attack is called 'pdg' (did you mean 'pgd'?); there are adaptive, apgd,"),
        (["purifier=nothing"], " comdefend, comdefend-released, ddip, "),
        (["dataset=svhn"], "there are cifar10, digits-photos, flower17, imagenet, mnist, neurips2017"),
        (
            ["dataset.seed=1"],
            "victim: learns images with seed=0, of which some are evaluated with dataset.seed=1; set victim.",
        ),
        (["dataset=mnist"], "knows the labels of 'digits', but dataset mnist has those of 'mnist'; victims"),
        (["subset=all"], "subset: expected one of random, two-per-class, two-correct-per-class, got 'all'"),
        (["subset=two-per-class", "n=21"], "n: expected 1 to 20, all that subset=two-per-class gives of 600"),
        (["attack.epz=1"], "(did you mean 'eps'?); attack pgd has alpha, eps, norm, random_start, steps"),
        (["purifier=jpeg", "purifier.qality=3"], "(did you mean 'quality'?); purifier jpeg has quality"),
        (["nonsense=1"], "no option is called 'nonsense'; there are attack, audit, budget_hours, chunk,"),
        (["attack.eps=-1/255"], "attack.eps: expected 0 < eps <= 1"),
        (["attack.eps=300/255"], "attack.eps: expected 0 < eps <= 1 (images lie in [0, 1]), got 1.17"),
        (["attack.eps=8/0"], "expected a number or a fraction, got '8/0'"),
        (["attack.eps=big"], "attack.eps: expected 0 < eps <= 1 (images lie in [0, 1]), got big"),
        (["n=0"], "n: expected 1 to 600 images (the whole set), got 0"),
        (["n=601"], "n: expected 1 to 600 images (the whole set), got 601"),
        (["n=some"], "n: expected a whole number, got 'some'"),
        (["chunk=0"], "chunk: expected at least 1 image, got 0"),
        (["split=test"], "split: expected one of train, tuning, evaluation, got 'test'"),
        (["device=tpu"], "device: expected auto, cpu, cuda or cuda:N, got 'tpu'"),
        (["tf32=true", "device=cpu"], "tf32: expected a CUDA device"),
        (["tf32=3"], "tf32: expected true or false, got 3"),
        (["workers=-1"], "workers: expected auto or at least 0, got -1"),
        (["shard=-1"], "shard: expected the number of a job, 0 or more, or null, got -1"),
        (["workers=nan"], "workers: expected auto or at least 0, got nan"),
        (["workers=inf"], "workers: expected auto or at least 0, got inf"),
        (["workers=true"], "workers: expected auto or at least 0, got True"),
        (["draws=true"], "draws: expected auto or at least 1, got True"),
        (["purifier.tie=x"], "purifier.tie: expected logits or probabilities, got 'x'"),
        (["dataset=cifar10"], "; victims for it: "),
        (["dataset=cifar10", "victim=resnet56"], "CIFAR-10 is not in"),
        (["purifier=comdefend-released"], "set DATA_DIR"),
        (
            ["knowledge=full", "purifier=jpeg"],
            "expected a purifier whose gradient is exact, JPEG declares 'bpda'",
        ),
        (["knowledge=score"], "attack PGD needs a gradient, knowledge Score gives a score at most"),
        (["knowledge=bpda", "knowledge.eot=2", "purifier=jpeg"], "JPEG draws nothing"),
        (
            ["knowledge=bpda", "knowledge.eot=0"],
            "knowledge.eot: expected at least 1 draw, 1 if",
        ),
        (
            ["knowledge=decision", "attack=square"],
            "attack Square needs a score, knowledge Decision gives a decision",
        ),
        (["purifier=none", "budget_hours=1e-9"], "above budget_hours=1e-09; not even n=1 would fit"),
        (["budget_hours=0"], "budget_hours: expected a finite number of hours above 0, got 0"),
        (["budget_hours=inf"], "budget_hours: expected a finite number of hours above 0, got inf"),
        (["budget_hours=nan"], "budget_hours: expected a finite number of hours above 0, got nan"),
        (["n"], "expected name=value"),
        (["purifier.trace.lrr=1"], "(did you mean 'lr'?); purifier ddip trace has input_scale, jitter, lr,"),
        (["table=ddip/table1"], "no option is called 'table'; there are attack, audit, budget_hours, chunk,"),
        (["purifier=null"], "Config group override must be a string"),
        (["seed=-1"], "seed: expected 0 or more, got -1"),
        (["attack.alpha=nan"], "expected finite numbers, got nan"),
        (["dataset.patch=500"], "dataset digits-photos: its config cannot be used"),
        (["victim.weights.batch=5000", *QUICK], "victim.weights.batch: expected 1 to 1000, got 5000"),
        (["victim.network.classes=5"], "victim: its config cannot be used"),
        (["victim.weights.lr=1e6", *QUICK], "training diverged"),
        (["purifier.steps=abc"], "purifier.steps: expected a whole number of at least 1, got abc"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_get_one_line_and_status_2(run, words, expected):
    status, _, err = run(evaluate.main, "evaluate", *words)
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("error: ")
    assert expected in err
    assert "Traceback" not in err


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(command, tmp_path):
    words = "purifier=mean", "attack=clean", "n=1", f"store={tmp_path}/store", "records=/proc/nope"
    status, _, err = command(evaluate.main, "evaluate", *words)
    assert status == 2
    assert err.startswith("error: /proc/nope: cannot write there")
    assert not (tmp_path / "store" / "records").exists()


def test_what_cannot_be_attacked_is_refused_before_its_victim_is_trained(run, tmp_path):
    status, _, err = run(evaluate.main, "evaluate", "knowledge=full", "purifier=jpeg", *QUICK)
    assert status == 2
    assert "expected a purifier whose gradient is exact" in err
    assert not (tmp_path / "store" / "weights").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["tables=/proc/x"], "cannot write there"),
        (["table.rows=[]"], "expected rows, columns and a metric"),
        (["only=[DDIP,Jpeg]"], "only: expected a list of labels of rows (No defense, JPEG 75, "),
        (["only=DDIP"], "got DDIP"),
        (["only=90"], "only: expected a list of labels of rows (No defense, JPEG 75, "),
        (["table.rows=[ddip]"], "expected entries like {label: DDIP, cell: [purifier=ddip]}, got ddip"),
        (
            ["table.rows=[{label:A,cell:['purifier=none']},{label:A,cell:['purifier=jpeg']}]"],
            "got A / Clean twice",
        ),
        (["table.metric=foo"], "a metric (accuracy, mean of draws, "),
        (["table.metric=ssim"], "table.worst: expected metric accuracy, got ssim; set table.worst=null"),
        (["table.rows=[{label:A,cell:['purifer=jpeg']}]"], "got purifer=jpeg"),
        (
            ["table=adaptive", "victim=digits-resnet14"],
            "expected another classifier than the victim, got digits-resnet14 for both",
        ),
        (
            ["table=ride/table1", "full=true", "subset=two-correct-per-class"],
            "subset: expected images that do not depend on the victim",
        ),
        (["table.rows=[{label:A,cell:['purifier=none','victim=resnet20']}]"], "got victim=resnet20"),
        (["rows=[jpg]"], "no purifier is called 'jpg' (did you mean 'jpeg'?)"),
        (
            ["rows=['jpeg 50']"],
            "rows: expected rows=[gamma], rows=['gamma power=2'] or rows=[{label: G, cell: [",
        ),
        (["rows=[jpeg,jpeg]"], "got jpeg (added) / Clean twice"),
        (["rows=['jpeg qality=3']"], "(did you mean 'quality'?)"),
        (
            ["table.columns=[{label:C,cell:['attack=clean'],for:{digits-photos:null}}]"],
            "table.columns: expected at least one that applies to dataset digits-photos and victim digits-r",
        ),
        (
            ["table.rows=[{label:N,cell:['purifier=none'],for:{digits-resnet8:null}}]"],
            "table.rows: expected at least one that applies to dataset digits-photos and victim digits-resn",
        ),
        (
            ["table.columns=[{label:C,cell:['attack=clean'],metric:ssim}]"],
            "table.average: expected a column with the table's metric, accuracy, got none; add one, or set ",
        ),
        (
            ["table.columns=[{label:C,cell:['attack=clean'],metric:ssim}]", "table.average=null"],
            "table.worst: expected a column with the table's metric, accuracy, got none; add one, or set t",
        ),
        (["table.paper=null"], "expected paper, printed and panels, or none of them; got printed and panels"),
        (["table=adaptive", "full=true"], "full: expected a table with the settings of a paper (panels)"),
        (
            ["purifier=none"],
            "to add a row, set rows=[none], or run make compare PURIFIER=none",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_tables_refuse_what_they_cannot_make(run, words, expected):
    status, _, err = run(table.main, "table", *words)
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert expected in err


NAMED = """
import runpy, sys
try:
    runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
finally:
    assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    ("module", "words", "expected"),
    [
        ("runners.evaluate", ["attack=pdg"], "no attack is called 'pdg' (did you mean 'pgd'?)"),
        ("runners.evaluate", ["-m", "attack=fgsm,pdg", "n=2,3"], "no attack is called 'pdg'"),
        ("runners.table", ["table=ddip/table9"], "no table is called 'ddip/table9'"),
        ("scripts.train", ["purifier=comdefend", "purifier.weights.stepz=3"], "(did you mean 'steps'?)"),
    ],
)
def test_a_wrong_name_is_answered_before_pytorch_is_imported(module, words, expected):
    done = subprocess.run(
        [sys.executable, "-c", NAMED, module, *words], cwd=CONFIGS.parent, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert expected in done.stderr


def test_right_words_pass_the_first_look(monkeypatch):
    for words in (["attack=fgsm", "n=3"], ["-m", "attack=fgsm,pgd", "purifier=none,jpeg"]):
        monkeypatch.setattr(sys, "argv", ["evaluate", *words])
        assert app.refuse_unknown_names("evaluate") is None


def test_thread_pools_are_told_not_to_spin_before_pytorch_reads_it():
    code = "import runners.app, os, sys; print('torch' in sys.modules, *map(os.environ.get, sys.argv[1:]))"
    names = ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OPENBLAS_NUM_THREADS"]
    bare = {name: value for name, value in os.environ.items() if name not in names}
    for environment, expected in (
        ({}, "False PASSIVE 0 0 1"),
        ({"GOMP_SPINCOUNT": "9"}, "False PASSIVE 9 0 1"),
    ):
        command = [sys.executable, "-c", code, *names]
        output = subprocess.run(
            command, cwd=CONFIGS.parent, env=bare | environment, capture_output=True, text=True, check=True
        )
        assert output.stdout.strip() == expected


def own_table(folder, name, text):
    """Write a table config of one's own, and return the words that run it with two images."""
    (folder / "configs" / "table").mkdir(parents=True)
    (folder / "configs" / "table" / f"{name}.yaml").write_text(text)
    return [f"--config-dir={folder}/configs", f"table={name}", "n=2", f"tables={folder}/tables"]


MINE = """\
title: Mine
columns:
  - {label: Clean, cell: [attack=clean]}
  - {label: FGSM, eps: 8, cell: [attack=fgsm]}
rows:
  - {label: No defense, cell: [purifier=none]}
  - {label: JPEG, cell: [purifier=jpeg]}
average: {label: Average, attack: average}
"""


def test_a_table_of_ones_own_needs_no_paper_and_takes_other_rows(run, tmp_path):
    words = own_table(tmp_path, "mine", MINE)
    status, out, err = run(table.main, "table", *words)
    assert status == 0, err
    folder = tmp_path / "tables"
    contents = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(contents) == {f"mine{end}" for end in (".md", ".csv", ".tex", ".json", "-records.parquet")}
    text = contents["mine.md"].decode()
    assert text.startswith("# Mine\n\n| Defense |  | Clean | FGSM 8 | Average |")
    assert "paper" not in text
    assert len(pd.read_csv(folder / "mine.csv").value.dropna()) == 6

    status, out, err = run(table.main, "table", *words, "rows=['jpeg quality=50']", "only=[JPEG]")
    assert status == 0, err
    assert {name: (folder / name).read_bytes() for name in contents} == contents, (
        "the files of the whole table stay as they were"
    )
    name = "mine-only-JPEG-with-jpeg-quality=50"
    assert pd.read_csv(folder / f"{name}.csv").row.unique().tolist() == [
        "No defense",
        "JPEG",
        "jpeg quality=50 (added)",
    ]
    assert f"{folder}/{name}.md, " in out, "paths are not wrapped"


NUMBERED = """\
columns:
  - {label: 0, cell: [attack=clean]}
rows:
  - {label: none, cell: [purifier=none]}
  - {label: 90, cell: [purifier=jpeg]}
  - {label: 50, cell: [purifier=jpeg, purifier.quality=50]}
"""


def test_labels_may_be_numbers(run, tmp_path):
    words = own_table(tmp_path, "numbered", NUMBERED)
    status, _, err = run(
        table.main, "table", *words, "only=[90]", "rows=[{label: 5, cell: ['purifier=mean']}]"
    )
    assert status == 0, err
    text = (tmp_path / "tables" / "numbered-only-90-with-5.md").read_text()
    assert [line.split(" | ")[0] for line in text.splitlines() if " ours " in line] == [
        "| none",
        "| 90",
        "| 5 (added)",
    ]


SHARED = """\
columns:
  - {label: Clean, cell: [attack=clean]}
  - {label: SSIM, metric: ssim, cell: [attack=clean]}
rows:
  - {label: JPEG, cell: [purifier=jpeg]}
"""


def test_the_records_of_columns_that_share_a_cell_are_kept_once(run, tmp_path):
    words = own_table(tmp_path, "shared", SHARED)
    status, _, err = run(table.main, "table", *words)
    assert status == 0, err
    frame = pd.read_csv(tmp_path / "tables" / "shared.csv")
    assert frame.n.tolist() == [2, 2]
    assert frame.command.nunique() == 1
    records = pd.read_parquet(tmp_path / "tables" / "shared-records.parquet")
    assert len(records) == records.id.nunique() == 2


@pytest.mark.parametrize("path", ["/a [b] c/[/red]/x.md", "/long" * 40])
def test_paths_are_printed_as_they_are(path, monkeypatch, capsys):
    monkeypatch.setattr(app, "console", Console(width=30))
    app.tell(f"written: {path}")
    logged = app.Lines()
    logged.console = Console(width=30)
    logged.emit(logging.makeLogRecord({"msg": f"damaged: {path}", "levelno": logging.WARNING}))
    assert capsys.readouterr().out == f"written: {path}\ndamaged: {path}\n"


def test_unknown_table(run):
    status, _, err = run(table.main, "table", "table=ddip/table9")
    assert status == 2
    assert "there are adaptive, ddip/appendix-e, ddip/ddn" in err


def test_a_sweep_goes_on_after_a_mistake(run, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    words = ["-m", "attack=fgsm", "purifier=comdefend-released,none,jpeg", "n=3"]
    status, out, err = run(evaluate.main, "evaluate", *words, after=evaluate.summarise)
    assert status == 2
    assert out.count("SSIM to clean") == 2, (out, err)
    summary = out.rpartition("3 cells")[2].splitlines()
    assert " ".join(summary[2].split()) == "purifier accuracy [95 %] n craft s purify s flags"
    rows = {line.split()[0]: line for line in summary[4:] if line.strip()}
    assert {"comdefend-released", "none", "jpeg"} <= set(rows)
    assert "refused" in rows["comdefend-released"]
    for name in ("none", "jpeg"):
        assert re.search(r" \d+\.\d \[\d+\.\d, \d+\.\d\] +3 +\d+\.\d\d +\d+\.\d\d", rows[name])
    assert "small_n" in "".join(summary)
    assert "fgsm" not in "".join(summary), "the summary repeats what all cells share"
    assert len(err.strip().splitlines()) == 1
    assert "comdefend" in err


def test_damage_is_said_to_the_user(run, tmp_path, caplog):
    words = ["n=2", "purifier=none"]
    assert run(evaluate.main, "evaluate", *words)[0] == 0
    for path in (tmp_path / "store" / "records").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-1])
    assert run(evaluate.main, "evaluate", *words)[0] == 0
    assert "damaged" in caplog.text


def test_a_victim_is_trained_alone_and_its_accuracy_told(run, tmp_path):
    status, out, err = run(train.main, "evaluate", "victim=digits-resnet8", *QUICK)
    assert status == 0, err
    assert re.search(r"victim digits-resnet8\nweights: .*\nsha256: .*\nseconds: .*\ntuning: .*n=197", out)
    assert len([path for path in (tmp_path / "store").rglob("*") if path.is_file()]) == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["n=3"], "train: expected victim=... or purifier=..., got neither"),
        (
            ["victim=resnet50", "dataset=digits-photos"],
            "victim knows the labels of 'cifar10', but the data set",
        ),
        (["victim=resnet50"], "CIFAR-10 is not in"),
        (
            ["victim=vit"],
            "; python -m scripts.fetch downloads them from https://download.pytorch.org/models/vit_b_16-c867db91.pth",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_trainings_that_cannot_be_are_refused(run, words, expected):
    status, _, err = run(train.main, "evaluate", *words)
    assert status == 2, err
    assert len(err.strip().splitlines()) == 1, err
    assert expected in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["victim=imagenet/resnet50"], "expected a folder to download into, got 'DATA_DIR'"),
        (["victim=digits-resnet8", "data_dir=."], "got none (the others are trained"),
        (["purifier=sr-imdn", "data_dir=."], "no address to download a verified file from"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_fetched_is_said(run, words, expected):
    status, _, err = run(fetch.main, "evaluate", *words)
    assert status == 2, err
    assert expected in err


def test_training_alone_keeps_the_weights(run, tmp_path):
    small = ["purifier=ncis", "purifier.weights.steps=2", "purifier.filters=4", "purifier.layers=2"]
    for _ in range(2):  # the second run finds the results of the first
        status, _, err = run(train.main, "evaluate", *small)
        assert status == 0, err
    assert len([path for path in (tmp_path / "store" / "weights").rglob("*") if path.is_file()]) == 1
    status, _, err = run(train.main, "evaluate", "purifier=jpeg")
    assert status == 2
    assert "learns nothing" in err
