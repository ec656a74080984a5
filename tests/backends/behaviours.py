"""A plug-in with an evaluator whose behaviour is the task's formula."""

import ctypes
import mmap
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from evonas.errors import UsageError
from evonas.evaluation.protocol import Outcome
from evonas.evaluation.registry import evaluator

HOLD = []


class Behave:
    def __init__(self, label=""):
        self.label = label

    def evaluate(self, tasks):
        return [getattr(self, task.formula.split()[0])(task, *task.formula.split()[1:]) for task in tasks]

    def free(self, task):
        return Outcome(task.candidate, "scored", attempt=task.attempt, scores={"free": 0.5})

    def sleep(self, task, seconds):
        time.sleep(float(seconds))
        return self.free(task)

    def spin(self, task):
        while True:
            pass

    def signal(self, task, name):
        print("last words", file=sys.stderr)
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(60)

    def segfault(self, task):
        ctypes.string_at(0)

    def exit(self, task, code):
        os._exit(int(code))

    def sysexit(self, task, code):
        sys.exit(int(code))

    def eat(self, task, gib):
        block = bytearray(int(float(gib) * 2**30))
        return Outcome(task.candidate, "scored", attempt=task.attempt, scores={"bytes": len(block)})

    def creep(self, task):
        while True:
            area = mmap.mmap(-1, 32 * 2**20)
            area.write(b"x" * len(area))
            HOLD.append(area)
            time.sleep(0.02)

    def boom(self, task):
        raise ValueError("no such luck")

    def nonsense(self, task):
        return 42

    def stranger(self, task):
        return Outcome(task.candidate + 1, "scored", attempt=task.attempt)

    def unjson(self, task):
        return Outcome(task.candidate, "scored", attempt=task.attempt, scores={"x": object()})

    def badstatus(self, task):
        return Outcome(task.candidate, "great", attempt=task.attempt)

    def flood(self, task):
        for _ in range(40):
            sys.stderr.write("x" * 99_999 + "\n")
        sys.stderr.write("the end")
        sys.stderr.flush()
        os._exit(9)

    def child(self, task, path):
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        Path(path + ".part").write_text(str(worker.pid))
        os.rename(path + ".part", path)
        time.sleep(300)

    def facts(self, task):
        facts = {
            "omp": float(os.environ["OMP_NUM_THREADS"]),
            "leader": float(os.getsid(0) == os.getpid()),
            "ignores_sigint": float(signal.getsignal(signal.SIGINT) == signal.SIG_IGN),
            "oom_score_adj": float(Path("/proc/self/oom_score_adj").read_text()),
            "torch_loaded": float("torch" in sys.modules),
            "threads": float(len(os.listdir("/proc/self/task"))),
            "pid": float(os.getpid()),
        }
        if "torch" in sys.modules:
            import torch

            facts["torch_threads"] = float(torch.get_num_threads())
            facts["denormal"] = float(torch.tensor(1e-40) * 1.0)
        return Outcome(task.candidate, "scored", attempt=task.attempt, scores=facts)


evaluator("behave", imports=())(Behave)
evaluator("behave-torch")(Behave)


@evaluator("stillborn", imports=())
def stillborn():
    print("the library is missing", file=sys.stderr)
    os._exit(7)


def start_a_thread(options):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()


@evaluator("threaded", imports=(), preload=start_a_thread)
def threaded():
    return Behave()


@evaluator("refuses", imports=())
def refuses():
    raise UsageError("the option is wrong", hint="use another")
