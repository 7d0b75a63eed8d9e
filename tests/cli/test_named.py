"""Names in options are checked before PyTorch is imported; hints suggest the nearest."""

from pathlib import Path

from tests.support.commands import bsprobe, python

WATCHED = """
import shlex, sys
from bsprobe.__main__ import main

SLOW = ("torch", "torchvision", "timm", "pandas", "matplotlib")

def importing(event, arguments):
    if event == "import" and arguments[0] in SLOW:
        raise RuntimeError(f"{arguments[0]} is imported")
    if event == "subprocess.Popen":
        raise RuntimeError("a process is started")

sys.addaudithook(importing)
for typed in sys.argv[1:]:
    sys.argv[1:] = shlex.split(typed)
    try:
        main()
    except SystemExit as ended:
        print(ended.code, file=sys.stderr)
"""
NAMED = (
    "run --model unet.py:buildd",
    "run --model unet:build --optimizer-from unet:adam",
    "run --model unet.py",
    "run --model unet.py:build --loss unet.py",
    "run --model unet.py:build --batch-from nowhere.py:batch",
    "run --model deeplabv2-resnet999",
    "run --model timm:resnet19",
    "run --device cude",
    "run --gpu 'RTX 4091'",
    "run --data nowhere",
    "run --device cpu --memory-limit 11",
    "run --model torchvision:resnet18 --input 4x64x64",
    "explain --model deeplabv2-mini --model-arg width=3",
    "explain --model unet.py:buildd",
    "gpus --fit --model unet.py:buildd",
    "study --data nowhere",
    "ci --baseline nowhere",
    "report nowhere",
    "report nowhere elsewhere",
    "compare nowhere elsewhere",
)


def test_a_misspelt_name_is_refused_before_slow_packages_are_imported(tmp_path: Path) -> None:
    (tmp_path / "unet.py").write_text("import torch\ndef build(): ...\nclass UNet: ...\n")
    done = python("-c", WATCHED, *NAMED, cwd=tmp_path)
    lines = done.stderr.splitlines()
    assert (done.stdout, len(lines)) == ("", 3 * len(NAMED)), done.stderr
    assert "bsprobe file" not in done.stderr
    for number, typed in enumerate(NAMED):
        error, hint, code = lines[3 * number : 3 * number + 3]
        assert (error[:7], hint[:6], code) == ("error: ", "hint: ", "2"), typed
        if "unet" in typed and "nowhere" not in typed:
            assert "build, UNet" in hint, typed


def test_labels_by_train_id_only_are_distinguished_from_missing_ones(tmp_path: Path) -> None:
    for kind, ending in (("leftImg8bit", "leftImg8bit"), ("gtFine", "gtFine_labelTrainIds")):
        city = tmp_path / "D" / kind / "train" / "a"
        city.mkdir(parents=True)
        (city / f"a_000000_000019_{ending}.png").write_bytes(b"")
    for command in (["run", "--data=D"], ["data", "D"], ["study", "--data=D"]):
        done = bsprobe(*command, cwd=tmp_path)
        error, hint = done.stderr.splitlines()
        assert done.returncode == 2
        assert "a_000000_000019_gtFine_labelIds.png" in error
        assert "json2labelImg" in hint
        assert "delete" not in done.stderr
