"""TensorBoard itself, serving a run, and a real browser that opens the report, where there is one."""

import json
import re
import shutil
import struct
import subprocess
import sys
import urllib.request

import pytest

from tests.command_line import environment, run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def server(trained):
    """The address of a TensorBoard that serves the run."""
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        trained / "runs",
        "--port",
        "0",
        "--load_fast",
        "false",
    ]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    addresses = (match[0] for line in process.stderr if (match := re.search(r"http://\S+", line)))
    address = next(addresses, None)
    assert address, "TensorBoard did not start"
    yield address
    process.kill()
    process.wait()


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as response:
        return response.read()


def wait_for(address: str, run_name: str, wanted: set[str]) -> None:
    """TensorBoard loads in the background: ask until it has all these tags of the run."""
    for _ in range(600):
        missing = wanted - set(json.loads(fetch(address)).get(run_name, ()))
        if not missing:
            return
    pytest.fail(f"TensorBoard never had {missing} at {address}")


def test_tensorboard_serves_curves_and_pictures(server):
    plugins, name = f"{server}data/plugin", "default/version_0"
    wait_for(f"{plugins}/scalars/tags", name, {"train/loss", "val/loss", "depth_scan/entropy/layer_00"})
    images = {"depth_scan/entropy", "depth_scan/entropy_over_time", "attention/layer_01", "attention/heads_of_note"}
    wait_for(f"{plugins}/images/tags", name, images)
    wait_for(f"{plugins}/histograms/tags", name, {"depth_scan/stripe/heads"})
    listing = f"{server}data/plugin/images/images?run=default%2Fversion_0&tag=attention%2Flayer_01&sample=0"
    picture = json.loads(fetch(listing))[-1]
    png = fetch(f"{server}data/plugin/images/individualImage?{picture['query']}")
    assert png.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", png[16:24])
    assert 300 < width <= 1600
    assert 200 < height <= 1200


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_the_report_offline(last, tmp_path):
    args = ("--checkpoint", last, "--output", tmp_path, "--no-ablation")
    assert run("analyze.py", *args, cwd=tmp_path).returncode == 0
    # The page's own title is set from inside the browser: only if every picture has decoded.
    page = tmp_path / "report.html"
    count = "Array.from(document.images).filter(i => i.complete && i.naturalWidth > 0).length"
    page.write_text(page.read_text().replace("</body>", f"<script>document.title = 'drew ' + {count}</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    dom = subprocess.run([CHROMIUM, *options, page.as_uri()], capture_output=True, text=True, timeout=120).stdout
    assert "<title>drew 7</title>" in dom
    assert "4 heads in 2 layers" in dom
