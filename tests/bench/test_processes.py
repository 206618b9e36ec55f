"""CPU time is seen of processes that have ended, and goes to what they were there for."""

import subprocess
import sys
import time

from uadray.bench.processes import CpuMeter

SPIN = "import time\nwhile time.process_time() < 0.8: pass\ntime.sleep(1)"  # so long that it is looked at once more


def test_a_child_that_has_ended_still_counts() -> None:
    with CpuMeter() as meter:
        before = meter.seconds()
        subprocess.run(["ray::Readslides", "-c", SPIN], executable=sys.executable, check=True)
        began = time.process_time()
        while time.process_time() - began < 0.2:
            pass
        spent = meter.seconds()
    assert 0.75 < spent["reader"] - before["reader"] <= 1.0
    assert spent["driver"] - before["driver"] >= 0.2
