"""A running server follows what is decided elsewhere, without a restart."""

import shutil

from chatwright.serve.config import ModelConfig
from chatwright.serve.experiment import ExperimentConfig
from chatwright.serve.standing import facts, promote, replace_model, roll_back, standing
from served import ask, serving, tiny_folder

TEST = ExperimentConfig(arms={"chat": 0.5, "small": 0.5})


def test_a_running_server_follows_promotions_roll_backs_and_models_that_a_gate_let_through(tmp_path):
    models = {name: ModelConfig(folder=tiny_folder()) for name in TEST.arms}
    other = shutil.copytree(tiny_folder(), tmp_path / "promoted")
    with serving(tmp_path, models=models, experiment=TEST) as served, served.client() as http:

        def arms() -> set[str]:
            found = set()
            for n in range(20):
                body = ask(user=f"u{n}", max_tokens=1, model="auto")
                answer = http.post("/v1/chat/completions", json=body)
                assert answer.status_code == 200, answer.text
                found.add(answer.json()["model"])
            return found

        assert arms() == {"chat", "small"}
        served.wait(lambda: len(facts(served.store, standing(served.store, "live")).requests) == 20)
        board = http.get("/admin/api/experiments").json()["experiments"]
        assert [test["name"] for test in board] == ["live"] and sum(board[0]["users"].values()) == 20
        promote(served.store, "live", "small")
        served.wait(lambda: arms() == {"small"})
        roll_back(served.store, "live")
        served.wait(lambda: arms() == {"chat"})
        fleet = served.app.state.service.fleet
        before = fleet.backends["chat"]
        replace_model(served.store, "live", "chat", str(other))
        served.wait(lambda: fleet.backends["chat"] is not before and arms() == {"chat", "small"})
        now = fleet.backends["chat"]
        roll_back(served.store, "live")
        served.wait(lambda: fleet.backends["chat"] is not now)
