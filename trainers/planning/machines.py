"""The machines that a plan is for: published peaks, measured ones, or those that the user gives."""

import os
import re
from dataclasses import dataclass, replace

import torch

from trainers.benchmarking.roofline import PeakMeter, Peaks
from trainers.settings.options import ConfigError

GIGA, TERA, GIB = 10**9, 10**12, 2**30
MEASURED = "measure"
CPU = "cpu"
ROUNDS = 3  # of the meter; each keeps the best of several


@dataclass(frozen=True)
class Kind:
    """One accelerator; rates a second.

    Attributes:
        name: of the table.
        flops: dense matrix products, by compute dtype.
        memory: bytes.
        bandwidth: bytes, memory to chip.
        link: bytes that it can send to its neighbours in one direction while it receives as many.
        network: the same to another node: one adapter of 400 Gbit/s each, as in the makers' own nodes, unless told.
        source: of the numbers.
        measured: whether they are this machine's.
    """

    name: str
    flops: dict[str, float]
    memory: float
    bandwidth: float
    link: float
    network: float = 50 * GIGA
    source: str = ""
    measured: bool = False

    def peaks(self, dtype: str) -> Peaks:
        """Its peak rates for products in one of the dtypes of ``flops``: FLOP and bytes a second."""
        return Peaks(self.flops[dtype], self.bandwidth)


def _kind(
    name: str, bfloat16: float, float32: float, memory: float, bandwidth: float, link: float, source: str
) -> Kind:
    """TFLOP/s without sparsity, GB, GB/s, GB/s in one direction."""
    flops = {"bfloat16": bfloat16 * TERA, "float16": bfloat16 * TERA, "float32": float32 * TERA}
    return Kind(name, flops, memory * GIGA, bandwidth * GIGA, link * GIGA, source=source)


# Data sheets give links as the sum of both directions: half of it is here. float32 is without TF32, torch's default.
KINDS = {
    kind.name.lower(): kind
    for kind in (
        _kind("A100", 312, 19.5, 80, 2039, 300, "NVIDIA A100 80GB SXM data sheet"),
        _kind("H100", 989, 67, 80, 3350, 450, "NVIDIA H100 SXM data sheet"),
        _kind("H200", 989, 67, 141, 4800, 450, "NVIDIA H200 SXM data sheet"),
        _kind("B200", 2250, 75, 180, 8000, 900, "NVIDIA DGX B200 data sheet, per GPU"),
        _kind("L40S", 362, 91.6, 48, 864, 32, "NVIDIA L40S data sheet; PCIe 4.0 x16"),
        _kind("RTX4090", 165, 82.6, 24, 1008, 32, "NVIDIA Ada GPU architecture whitepaper; PCIe 4.0 x16"),
        _kind("MI300X", 1307, 163.4, 192, 5300, 448, "AMD Instinct MI300X data sheet"),
    )
}
EXPECTED = f"expected COUNTxKIND, such as 8xH100, with a kind of {', '.join(k.name for k in KINDS.values())}, cpu, "
EXPECTED += f"{MEASURED} (this machine), or any name beside --peak_flops, --bandwidth and --memory"


@dataclass(frozen=True)
class Machines:
    """``count`` accelerators, ``per_node`` of them linked to one another."""

    kind: Kind
    count: int
    per_node: int = 8

    @property
    def link(self) -> float:
        """Bytes a second of the slowest hop of a ring through all of them."""
        return self.kind.link if self.count <= self.per_node else min(self.kind.link, self.kind.network)


@dataclass(frozen=True)
class Given:
    """What the user says of the machines; None: the table's or the meter's."""

    peak_flops: float | None = None
    bandwidth: float | None = None
    memory: float | None = None
    link: float | None = None
    network: float | None = None

    def __post_init__(self):
        for name, value in vars(self).items():
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name} {value}: expected a finite number above 0")

    @property
    def whole(self) -> bool:
        """Whether nothing else has to be known."""
        return None not in (self.peak_flops, self.bandwidth, self.memory)


@dataclass(frozen=True)
class Asked:
    """What `GPUS` says: how many of which name, and whether they are processors of this machine."""

    count: int
    name: str
    cpu: bool


def asked_for(text: str, given: Given) -> Asked:
    """Read `GPUS`, and measure nothing.

    Args:
        text: COUNTxKIND, a kind, or `measure`.
        given: makes any name a kind.

    Raises:
        ConfigError: no such kind, or no number of them.
    """
    found = re.fullmatch(r"(?:(\d+)x)?([\w-]+)", text.strip())
    count, name = (int(found[1] or 1), found[2].lower()) if found else (0, "")
    if count < 1 or not (name in KINDS or name in (CPU, MEASURED) or given.whole):
        raise ConfigError(f"GPUS {text!r}: {EXPECTED}")
    return Asked(count, name, name == CPU or (name == MEASURED and not torch.cuda.is_available()))


def find_machines(asked: Asked, given: Given, per_node: int, dtype: str) -> Machines:
    """The machines; those that are here are measured, for seconds.

    Args:
        asked: from `asked_for`.
        given: replaces what is known of the kind.
        per_node: accelerators of one node.
        dtype: in which this machine is measured, if it is.
    """
    if asked.name in KINDS:
        kind = KINDS[asked.name]
    elif given.whole:
        kind = Kind(asked.name, {}, 0, 0, link=32 * GIGA, source="as given; links of PCIe 4.0 x16 unless given")
    else:
        kind = _this_machine(torch.device("cpu" if asked.cpu else "cuda"), dtype)
    return Machines(_told(kind, given), asked.count, per_node)


def _told(kind: Kind, given: Given) -> Kind:
    values = {name: getattr(given, name) for name in ("bandwidth", "memory", "link", "network")}
    kind = replace(kind, **{name: value for name, value in values.items() if value is not None})
    if given.peak_flops is not None:
        kind = replace(kind, flops=dict.fromkeys(("bfloat16", "float16", "float32"), given.peak_flops))
    return kind


def _this_machine(device: torch.device, dtype: str) -> Kind:
    """Rates by `PeakMeter`. Processes of one CPU talk through its memory."""
    meter = PeakMeter(device, getattr(torch, dtype))
    for _ in range(ROUNDS):
        meter.measure()
    if device.type == "cuda":
        memory, name = torch.cuda.get_device_properties(device).total_memory, torch.cuda.get_device_name(device)
    else:
        memory, name = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), CPU
    source = f"measured on this machine, {torch.get_num_threads()} thread(s)"
    best = meter.best
    link = best.bandwidth / 2 if device.type == "cpu" else 32 * GIGA
    return Kind(name, {dtype: best.flops}, memory, best.bandwidth, link, source=source, measured=True)
