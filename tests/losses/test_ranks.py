"""What is taken over a batch is taken over all ranks: two real processes against one."""

import json
import subprocess
import sys
from pathlib import Path

import torch

from chatwright.core.dist import gather
from chatwright.losses import advantage
from chatwright.losses.advantage import Settings

WORK = """
import json, sys
import torch, torch.distributed as d
sys.path.insert(0, sys.argv[4])
from test_ranks import case, results
d.init_process_group("gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2)
rows = json.loads(sys.argv[3])
print(json.dumps(results(*[x[rows] for x in case()])))
d.destroy_process_group()
"""

FOLDER = str(Path(__file__).parent)
NAMES = ["group_normalised", "group_centred", "leave_one_out", "whitened_group_return", "batch_centred"]


def case():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(7, 3, generator=generator).double()
    return rewards, torch.rand(7, 3, generator=generator) > 0.2, torch.tensor([0, 0, 0, 1, 1, 1, 1])


def results(rewards, mask, groups):
    finished = torch.ones(len(groups), dtype=torch.bool)
    given = (rewards * mask, mask, groups, None, finished, Settings())
    found = {name: getattr(advantage, name)(*given)[0].tolist() for name in NAMES}
    return found | {"gathered": gather(rewards).tolist()}


def test_a_group_split_over_ranks_has_the_advantages_of_the_whole(tmp_path):
    split = [[0, 3, 4], [1, 2, 5, 6]]
    work = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, str(tmp_path / "store"), str(i), json.dumps(rows), FOLDER],
            stdout=subprocess.PIPE,
            text=True,
        )
        for i, rows in enumerate(split)
    ]
    parts = [json.loads(w.communicate(timeout=120)[0]) for w in work]
    whole = results(*case())
    rewards = case()[0]
    for part, rows in zip(parts, split, strict=True):
        assert part.pop("gathered") == rewards[split[0] + split[1]].tolist()
        for name, found in part.items():
            torch.testing.assert_close(torch.tensor(found), torch.tensor(whole[name])[rows])
