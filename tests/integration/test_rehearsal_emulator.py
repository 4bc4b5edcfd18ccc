"""The emulator of a rehearsal counts and bills by the settings in force, from wherever they came."""

import json

import urllib3

from models.settings import load
from scheduler.cli.emulators import rehearsal_emulator


def test_limits_and_prices_of_the_settings_file_hold_in_the_rehearsals_emulator(tmp_path, monkeypatch):
    # given an account whose limits and prices stand in the file alone
    (tmp_path / "packshot.toml").write_text(
        'PACKSHOT_LIMITS = "qwen-image-2.0=30/1s"\nPACKSHOT_PRICES = "qwen-image-2.0@cn-beijing=0.05 CNY"\n'
    )
    monkeypatch.delenv("PACKSHOT_LIMITS", raising=False)
    monkeypatch.delenv("PACKSHOT_PRICES", raising=False)
    settings = load(cwd=tmp_path, environ={})
    # when the rehearsal's emulator is asked for a picture
    with rehearsal_emulator(settings, tmp_path / "state", "cn-beijing", []) as url:
        root = url.removesuffix("/api/v1")
        limits = urllib3.request("GET", f"{root}/emulator/limits").json()
        edit = {
            "model": "qwen-image-2.0",
            "input": {
                "messages": [{"role": "user", "content": [{"image": "https://shop.example/a.jpg"}, {"text": "a"}]}]
            },
            "parameters": {"size": "512*512"},
        }
        answer = urllib3.request(
            "POST",
            f"{url}/services/aigc/multimodal-generation/generation",
            body=json.dumps(edit),
            headers={"Authorization": "Bearer sk-rehearsal", "Content-Type": "application/json"},
        )
        invoice = urllib3.request("GET", f"{root}/emulator/invoice?summary=1").json()
    # then it limits and bills as the file says
    assert answer.status == 200
    assert "30/1s" in json.dumps(limits)
    assert invoice["micros"] == 50_000
