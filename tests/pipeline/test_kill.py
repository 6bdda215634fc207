"""kill -9 in every stage, the same command again: the weights of a run nobody killed, bit for bit."""

import os
import signal
import subprocess
import sys
import time

import pytest

from shop import recipe, write_shop

STAGES = ("pretrain", "sft", "judge", "chat")


def start(path, out):
    command = [sys.executable, "-m", "chatwright", "run", str(path), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


def wait_for_steps(folder, stage, steps, process):
    metrics = folder / stage / "metrics.jsonl"
    deadline = time.monotonic() + 200
    while not (metrics.exists() and metrics.read_text().count("\n") >= steps):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline, f"{stage} did not reach step {steps}"
        time.sleep(0.02)


@pytest.mark.slow  # five starts of the program, each with its imports
def test_killed_in_every_stage_it_ends_with_the_same_bits(tmp_path):
    path = write_shop(tmp_path, recipe(steps=9))
    finish(start(path, tmp_path / "whole"))
    folder, heard = tmp_path / "killed" / "mini", ""
    for stage, steps in zip(STAGES, (5, 3, 7, 5), strict=True):
        process = start(path, tmp_path / "killed")
        wait_for_steps(folder, stage, steps, process)
        process.send_signal(signal.SIGKILL)
        heard += process.communicate()[0]
        assert process.returncode == -signal.SIGKILL
        assert not (folder / stage / "manifest.json").exists()
    heard += finish(start(path, tmp_path / "killed"))
    assert heard.count("going on after step") == len(STAGES)
    for one in sorted((tmp_path / "whole" / "mini").glob("*/model*/model.safetensors")):
        other = folder / one.relative_to(tmp_path / "whole" / "mini")
        assert one.read_bytes() == other.read_bytes(), one
    one, other = (
        (tmp_path / r / "mini" / "check" / "samples.jsonl").read_text() for r in ("whole", "killed")
    )
    assert one == other
    assert not list(folder.rglob("*.part"))


@pytest.mark.slow  # three starts of the program
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path):
    path = write_shop(tmp_path, recipe(steps=60))
    folder = tmp_path / "out" / "mini"
    process = start(path, tmp_path / "out")
    wait_for_steps(folder, "pretrain", 3, process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "is saved" in said and "Run the same command again" in said
    assert list((folder / "pretrain" / "checkpoints").iterdir())
    process = start(path, tmp_path / "out")
    wait_for_steps(folder, "pretrain", 10, process)
    os.kill(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "going on after step" in said and "is saved" in said
