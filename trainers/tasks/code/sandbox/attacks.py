"""Attacks that probe the walls: each is a program that runs inside, with what it needs to know in FACTS.

They are run against what the probe itself planted, so that nothing is lost where a wall does not hold.
"""

SURROUNDINGS = """
import os, signal, socket, sys

def attempt(action, *arguments):
    try:
        return action(*arguments)
    except (OSError, MemoryError, ValueError):
        return None

def connect(family, kind, address):
    with socket.socket(family, kind) as end:
        end.settimeout(0.2)
        end.connect(address)
        end.send(b"reached")

def read(path):
    with open(path) as file:
        return file.read()

def write(path, size=1):
    with open(path, "wb", buffering=0) as file:
        written = 0
        while written < size:
            written += file.write(bytes(min(size - written, 65536)))
        return written

attempt(connect, socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", FACTS["tcp"]))
attempt(connect, socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", FACTS["udp"]))
attempt(connect, socket.AF_UNIX, socket.SOCK_STREAM, FACTS["unix"])
attempt(connect, socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + FACTS["abstract"])

print("files_read:", attempt(read, FACTS["secret"]))
attempt(os.symlink, FACTS["secret"], "link")
print("files_read:", attempt(read, "link"))
if set(attempt(os.listdir, FACTS["home"]) or ()) & set(FACTS["hidden"]):
    print("files_read:", FACTS["word"])
if attempt(read, f"/proc/{FACTS['pid']}/environ"):
    print("files_read:", FACTS["word"])
attempt(write, FACTS["outside"] + "/written")
attempt(os.kill, FACTS["sentinel"], signal.SIGKILL)

if attempt(bytearray, 2 * FACTS["memory_bytes"]):
    print("memory: broken")
if attempt(write, "large", 2 * FACTS["file_bytes"]):
    print("disk: one file grew too large")
attempt(os.remove, "large")
parts = range(FACTS["disk_bytes"] // FACTS["file_bytes"] + 1)
sizes = [attempt(write, f"part{i}", FACTS["file_bytes"]) for i in parts]
if all(sizes):
    print("disk: the files together grew too large")
for i in range(len(sizes)):
    attempt(os.remove, f"part{i}")
if all([attempt(write, f"file{i}") for i in range(FACTS["files"] + 1)]):
    print("disk: too many files")
print("done")
"""

PROCESSES = """
import os, sys, threading, time

started, forever = 0, threading.Event()
threading.stack_size(32768)
for _ in range(FACTS["tries"]):
    try:
        threading.Thread(target=forever.wait, daemon=True).start()
        started += 1
    except (RuntimeError, MemoryError):
        break
print("threads", started, flush=True)
for _ in range(FACTS["tries"]):
    try:
        if os.fork() == 0:
            os.setsid()
            time.sleep(FACTS["outlive"])
            os._exit(0)
        started += 1
    except OSError:
        break
print("tasks", started, flush=True)
os._exit(0)
"""

SPINNING = "while True: pass"

SLEEPING = """
import signal, sys, time
for number in set(signal.Signals) - {signal.SIGKILL, signal.SIGSTOP}:
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
sys.stdout.write("x" * FACTS["flood"])
sys.stdout.flush()
time.sleep(60)
"""
