import os
import re
from pathlib import Path

import pytest
import torch

from fmce import module_table

ROOT = Path(__file__).resolve().parents[1]
LINKED = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_blocks(page):
    return re.findall(
        r"^```python\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S
    )


def headings(page):
    """Anchors as GitHub makes them: lower case, spaces to dashes, other signs dropped."""
    lines = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.fixture
def beside_a_run(finished_run, tmp_path, monkeypatch):
    """A working folder in which the examples' `runs/digits/seed0` is a small real run."""
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    os.symlink(finished_run.path, tmp_path / "runs" / "digits" / "seed0")
    monkeypatch.chdir(tmp_path)


def run_examples(page):
    """Run a page's examples one after another, as a reader would, and return the names they leave."""
    blocks = python_blocks(page)
    assert blocks
    names = {"__name__": page}
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"{page}, example {number}", "exec"), names)
    return names


def test_the_readme_example_records_a_healthy_training(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_examples("README.md")
    assert names["recorder"].epoch == 12
    assert [row.name for row in module_table(Path("runs/mine")).rows] == ["0", "1"]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert not any("check" in line for line in lines)  # an alarm says what to check


def test_the_guide_to_own_loops_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_examples("docs/own-loop.md")
    assert names["check"].good
    assert names["found"].prefix == ("module.", "")


def test_the_guide_to_fmce_runs_and_its_fmce_net_beats_guessing(beside_a_run, capsys):
    names = run_examples("docs/fmce.md")
    accuracy = re.search(r"unseen images: ([\d.]+)", capsys.readouterr().out)[1]
    assert float(accuracy) > 0.4  # five phases: guessing gives 0.2
    assert names["phases"].markers == (5, 8, 12, 15, 19, 22, 26, 29, 33, 36)
    assert names["run"].path.name == "seed0"
    assert (names["verdict"].state, names["verdict"].epoch) == ("at_rest", 18)


def test_the_guide_to_fmce_net_pp_trains_the_network_and_not_the_oracle(beside_a_run):
    names = run_examples("docs/fmce-net-pp.md")
    assert all(p.grad is not None for p in names["model"].parameters())
    assert all(p.grad is None for p in names["oracle"].parameters())


def test_the_guide_to_function_matching_builds_a_network_that_comes_to_match(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = run_examples("docs/function-matching.md")
    losses = names["losses"]
    assert losses[-1] < 0.3 * losses[0]
    assert [arm["arm"] for arm in names["result"]["arms"]] == list(names["config"].arms)


def test_the_readme_example_is_short():
    (block,) = python_blocks("README.md")
    assert len([line for line in block.splitlines() if line.strip()]) <= 20


@pytest.mark.parametrize("page", LINKED, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in headings(file), f"{page.name}: {target}"


def test_every_command_of_the_readme_table_exists(fmce_command):
    shown = set(
        re.findall(r"`fmce ([a-z-]+)[ `]", (ROOT / "README.md").read_text(encoding="utf-8"))
    )
    listed = set(re.findall(r"^│ +• ([a-z-]+)", fmce_command("--help").stdout, re.M))
    assert listed
    assert shown == listed


def test_the_guide_to_frames_deals_every_frame_once(capsys):
    run_examples("docs/frames.md")
    assert capsys.readouterr().out == f"{list(range(10))}\n"


def test_every_make_target_shown_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    for page in LINKED:
        text = page.read_text(encoding="utf-8")
        consoles = "\n".join(re.findall(r"^```console\n(.*?)^```", text, re.M | re.S))
        shown = re.findall(r"`make ([a-z-]+)[ `]", text) + re.findall(
            r"^make ([a-z-]+)", consoles, re.M
        )
        assert set(shown) <= targets, page.name


def test_no_guide_promises_a_file_that_is_not_there():
    tree = (ROOT / "README.md").read_text(encoding="utf-8").split("## What is where")[1]
    block = tree.split("```")[1]
    for name in re.findall(r"^  ([a-z_]+(?:\.py|/))", block, re.M):
        assert (ROOT / "src" / "fmce" / name).exists(), name
    for name in re.findall(r"^([a-z]+/)", block, re.M):
        assert (ROOT / name).exists(), name


def test_the_guide_to_detection_has_a_detector_that_gives_boxes():
    names = run_examples("docs/detection.md")
    assert names["output"].class_logits.shape == (2, 96, 3)
    assert len(names["boxes"]) == 2
    assert len(names["boxes"][0]["scores"]) > 0
