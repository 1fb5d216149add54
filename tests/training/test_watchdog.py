"""The watchdog against threads that really hang."""

import subprocess
import sys
import time

from instructrec_jax.training.watchdog import Watchdog


def drawing_a_batch_that_never_comes(seconds: float) -> None:
    time.sleep(seconds)


def wait_for(file, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while not file.exists() and time.monotonic() < end:
        time.sleep(0.02)
    return file.exists()


def test_a_hung_step_is_told_once_with_what_it_waits_for(tmp_path, capfd):
    watchdog = Watchdog(tmp_path, seconds=0.2, ends_run=False)
    time.sleep(0.3)
    assert not list(tmp_path.iterdir())  # compiling is no step
    watchdog.beat(6)
    drawing_a_batch_that_never_comes(0.7)
    words = (tmp_path / "hung-7.txt").read_text()
    assert "step 7 has not ended after 0.2 seconds" in words
    assert "drawing_a_batch_that_never_comes" in words
    said = capfd.readouterr().err
    assert said.count("step 7 has not ended") == 1
    # The run goes on, and a later hang is told again.
    watchdog.beat(7)
    assert wait_for(tmp_path / "hung-8.txt")
    watchdog.close()


def test_evaluating_and_saving_may_take_any_time(tmp_path):
    watchdog = Watchdog(tmp_path, seconds=0.2, ends_run=False, process=3)
    watchdog.beat(1)
    with watchdog.paused():
        time.sleep(0.5)
    assert not list(tmp_path.iterdir())
    assert wait_for(tmp_path / "hung-2-3.txt")
    watchdog.close()
    off = Watchdog(tmp_path / "off", seconds=0.0, ends_run=False)
    off.beat(1)
    off.close()


def test_a_hung_run_can_end_to_be_started_again(tmp_path):
    program = (
        "import sys, time, pathlib\n"
        "from instructrec_jax.training.watchdog import Watchdog\n"
        "Watchdog(pathlib.Path(sys.argv[1]), seconds=0.1, ends_run=True).beat(4)\n"
        "time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 75
    assert (tmp_path / "hung-5.txt").exists()
    assert "train.hung_step_exit" in done.stderr
