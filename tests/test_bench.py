"""The benchmarks' harness: pairs alternate, unequal work stops it, and every section can be asked for."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from bench.harness import Options, Round, Row, Sides, Worker, in_own_process, measure

ROOT = Path(__file__).parent.parent
OPTIONS = Options(quick=True, pairs=4, threads=1)


def row(ours, peer, **settings):
    @contextmanager
    def sides(options):
        yield Sides(ours, peer)

    return Row("row", "peer", "things/s", ">= 2", sides, **settings)


def test_sides_take_turns_and_the_figure_is_the_median_of_pairs():
    order, values = [], iter([9, 3, 4, 5, 100])

    def ours():
        order.append("ours")
        return Round(next(values))

    def peer():
        order.append("peer")
        return Round(2, note="padded")

    result = measure(row(ours, peer), OPTIONS)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer", "peer", "ours", "ours", "peer"]
    assert result.runs == [1.5, 2, 2.5, 50] and result.median == 2.25 and result.reached
    assert result.json()["peer"] == 2 and result.notes == ["padded"]


def test_unequal_work_is_no_comparison():
    uneven = row(lambda: Round(1, {"tokens": 100}), lambda: Round(1, {"tokens": 101}))
    with pytest.raises(ValueError, match="row: tokens is 100 here and 101 at peer"):
        measure(uneven, OPTIONS)
    with pytest.raises(ValueError, match="report"):
        measure(row(lambda: Round(1, {"tokens": 1}), lambda: Round(1)), OPTIONS)


def test_a_row_without_a_peer_is_its_own_figure():
    alone = row(lambda: Round(0.2), None)
    assert measure(alone, OPTIONS).runs == [0.2] * 4


def test_other_processes_answer_and_tell_when_they_fail():
    assert in_own_process("bench.harness:machine")["cores"] > 0
    with pytest.raises(RuntimeError, match="division by zero"):
        in_own_process("operator:truediv", 1, 0)
    code = "import sys, json\nfor line in sys.stdin: print('chatter'); print('@' + line, end='', flush=True)"
    worker = Worker([sys.executable, "-u", "-c", code])
    assert worker.ask(tokens=3) == {"tokens": 3}
    worker.close()
    dead = Worker([sys.executable, "-c", "import sys; sys.stdin.readline(); sys.exit(3)"])
    with pytest.raises(RuntimeError, match="status 3"):
        dead.ask(tokens=3)


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    out = tmp_path / "startup.json"
    command = [sys.executable, "-m", "bench", "startup", "--quick", "--json", str(out)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = json.loads(out.read_text())
    figure = found["ratios"]["chatwright --help"]
    assert figure["median"] == figure["runs"][0] > 0 and "chatwright --help" in said
    assert {"machine", "versions", "curves", "command"} <= set(found)


@pytest.mark.slow  # four models and trl, in a process of their own
def test_the_rows_for_a_gpu_run_with_small_models_anywhere(tmp_path):
    words, rows = ("where", "is", "my", "parcel", "when", "does", "it", "come", "back", "to", "shop"), []
    for i in range(40):
        asked = " ".join(words[(i + k * (i + 1)) % len(words)] for k in range(60))
        rows.append({"prompt": asked, "chosen": f"It comes in {i} days.", "rejected": f"No {i}."})
    data, out = tmp_path / "pairs.jsonl", tmp_path / "gpu.json"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    command = ["-m", "bench", "gpu", "--quick", "--threads", "1", "--data", str(data), "--json", str(out)]
    subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=True)
    found = json.loads(out.read_text())["ratios"]
    assert len(found) == 6 and all(row["median"] > 0 for row in found.values())
