"""Bytes on one accelerator, by what they are for and how a run is spread over processes.

Weights, gradients and AdamW's two moments are exact. Activations are what autograd keeps of a decoder of Llama's kind
with a fused attention kernel, tensor by tensor (after Korthikanti et al. 2022, 2205.05198, section 4, who count those
of GPT); on a CPU they were measured to be within a fifth of it (docs/planning.md).

What this trainer does, and so what is counted: weights have model.dtype, and gradients and moments have it too; with
training.bf16 and float32 weights autocast makes a bfloat16 copy of each weight, kept for the backward. Adapters are
float32 (peft). DeepSpeed keeps float32 copies and moments of what is trained beside bfloat16 weights. FSDP2 keeps
trained weights in float32 shards (accelerate) and gathers bfloat16 ones. Rollouts of sharded weights gather them all.
"""

from dataclasses import dataclass

from core.denoisers.projection import CHUNK_LOGITS, CHUNK_ROWS
from trainers.benchmarking.counters import Calls
from trainers.benchmarking.roofline import Costs
from trainers.benchmarking.steps import FULL, LORA
from trainers.planning.models import Model
from trainers.planning.work import Work
from trainers.settings.spreading import DDP, FSDP2, ONE, ZERO2, ZERO3

STRATEGIES = (DDP, FSDP2, ZERO2, ZERO3)  # the simplest first; DeepSpeed is a package of its own
FLOAT = 4
HALF = 2
USABLE = 0.9  # of an accelerator's memory: the rest is the driver's, and lost between blocks of the allocator
MOMENTS = 2


@dataclass(frozen=True)
class Setup:
    """How a model is trained.

    Attributes:
        trained: `FULL` or `LORA`.
        itemsize: bytes of a weight as it is loaded (model.dtype).
        mixed: whether products are made in a type of 2 bytes by autocast or an engine (training.bf16).
        checkpointed: activations of a layer are made again in the backward.
        reference: a second model beside the policy (beta > 0); that of an adapter is the model without it.
        quantised: weights are loaded in 4 bits (model.load_in_4bit); they are counted as if they were not.
    """

    trained: str
    itemsize: int
    mixed: bool
    checkpointed: bool
    reference: bool
    quantised: bool = False

    @property
    def compute(self) -> int:
        """Bytes of a number in a product."""
        return HALF if self.mixed else self.itemsize


@dataclass(frozen=True)
class Memory:
    """Bytes on each accelerator.

    Attributes:
        weights, gradients, optimiser, reference: there all the time.
        training: at most during a step of the loss: activations, copies in another type, logits.
        rollout: at most while completions are written: gathered weights, logits, stored keys and values.
    """

    weights: float
    gradients: float
    optimiser: float
    reference: float
    training: float
    rollout: float

    @property
    def held(self) -> float:
        """Bytes that are there all the time."""
        return self.weights + self.gradients + self.optimiser + self.reference

    @property
    def peak(self) -> float:
        """Bytes at the fullest moment: of rollout and loss one runs at a time."""
        return self.held + max(self.training, self.rollout)

    def fits(self, memory: float) -> bool:
        """Whether the peak is within the share `USABLE` of an accelerator's ``memory``, in bytes."""
        return self.peak <= USABLE * memory


@dataclass(frozen=True)
class Transient:
    """Bytes that come and go, and do not depend on how weights are spread.

    Attributes:
        activations: kept for the backward of one forward of the loss.
        logits: of chunks of the loss.
        rollout: of an evaluation in a rollout: logits, one layer's activations, stored keys and values.
    """

    activations: float
    logits: float
    rollout: float


def memory_of(model: Model, setup: Setup, transient: Transient, strategy: str, processes: int) -> Memory:
    """Bytes by strategy; with one process they are all the same but for DeepSpeed's and FSDP2's types."""
    full, everything = setup.trained == FULL, model.weights
    trained = everything if full else model.adapter
    frozen = 0 if full else everything
    own = setup.itemsize if full else FLOAT  # bytes of a trained weight, its gradient and its moments
    reference = everything if setup.reference and full else 0
    spread = {ONE: 1, DDP: 1, ZERO2: 1, ZERO3: processes, FSDP2: processes}[strategy]
    gathered = 0.0 if spread == 1 else setup.compute * everything
    if strategy in (ZERO2, ZERO3):
        weights = setup.compute * (frozen + trained) / spread
        gradients = setup.compute * trained / processes
        master = 1 if setup.compute < FLOAT else 0
        optimiser = (master + MOMENTS) * FLOAT * trained / processes
        reference_bytes = setup.compute * reference / spread
        copies = 0.0
    else:
        kept = FLOAT if strategy == FSDP2 and setup.mixed else own  # accelerate: trained weights become float32
        weights = (setup.itemsize * frozen + kept * trained) / spread
        gradients = kept * trained / spread
        if strategy == DDP and processes > 1:
            gradients *= 2  # the buckets in which they are summed up
        optimiser = MOMENTS * kept * trained / spread
        reference_bytes = setup.itemsize * reference / spread
        cast = setup.mixed and setup.itemsize > HALF and strategy != FSDP2
        copies = HALF * everything if cast else 0.0
    if spread > 1:  # two parts at a time: the next is fetched while one is in use; and a gradient before it is shared
        copies += (2 * setup.compute + (setup.compute if full else 0)) * model.largest
    training = transient.activations + transient.logits + copies
    return Memory(weights, gradients, optimiser, reference_bytes, training, transient.rollout + gathered)


def transient_of(model: Model, setup: Setup, work: Work, longer: float) -> Transient:
    """The bytes that come and go.

    Args:
        model, setup: what is trained, and how.
        work: what a process asks of its model; the largest of its forwards is what counts.
        longer: positions of a sequence with the longest prompt, in units of one with the mean prompt.
    """
    costs, hidden = model.costs(setup.compute), model.config.hidden_size
    positions = longer * max(each.positions for each in work.scored.body)
    layer = positions * layer_bytes(costs, setup)
    kept = costs.layers * layer
    if setup.checkpointed:  # the input of each layer, and one layer whole
        kept = costs.layers * positions * hidden * setup.itemsize + layer
    scored = max(work.scored.head)
    rows = min(max(CHUNK_ROWS, CHUNK_LOGITS // model.config.vocab_size), scored)
    logits = rows * model.config.vocab_size * _logit_bytes(setup)
    kept += scored * hidden * (FLOAT + setup.compute)  # hidden states that the head sees, and their gradients
    return Transient(kept, logits, _rollout_bytes(model, costs, setup, work.rollout, longer))


def layer_bytes(costs: Costs, setup: Setup) -> float:
    """What autograd keeps of one layer, bytes a position.

    Of attention queries and keys after their rotation, values, and what the kernel returns; of the feed-forward module
    gate, its activation and up (of experts as many as a position is sent to); of each of two norms its input, in
    float32. To these come the inputs of the weights that are trained. All weights: what the norms make, before and
    behind their own weights, and the inputs of output and down. An adapter: its input, which matrices side by side
    share; where weights have 2 bytes a float32 copy, one for each.
    """
    hidden, compute = costs.head[0], setup.compute
    wide = sum(out for _, out in costs.feed_forward if out != hidden)  # gate and up
    inner = sum(rows for rows, out in costs.feed_forward if out == hidden)  # into down
    kept = compute * (2 * costs.queries + 2 * costs.keys + wide + inner) + 2 * FLOAT * hidden
    if setup.trained == LORA and setup.itemsize < FLOAT:
        return kept + FLOAT * sum(rows for rows, _ in (*costs.attention, *costs.feed_forward))
    kept += compute * (costs.queries + inner + 2 * hidden)
    return kept if setup.trained == LORA else kept + 2 * setup.itemsize * hidden


def _rollout_bytes(model: Model, costs: Costs, setup: Setup, rollout: Calls, longer: float) -> float:
    if not rollout.body:
        return 0.0
    largest = longer * max(each.positions for each in rollout.body)
    widest = max(2 * max(out for _, out in costs.feed_forward), costs.queries + 2 * costs.keys)
    activations = largest * (setup.compute * widest + 2 * setup.itemsize * costs.head[0])
    logits = max(rollout.head) * model.config.vocab_size * _logit_bytes(setup)
    positions = longer * max(each.rows * each.attended for each in rollout.body)
    stores = any(each.attended > each.fed for each in rollout.body)
    return activations + logits + stores * positions * 2 * costs.keys * costs.layers * setup.compute


def _logit_bytes(setup: Setup) -> int:
    """Two numbers in float32 (a logit and what is made of it), and one as the head gives it if that is another."""
    return 2 * FLOAT + (setup.compute if setup.compute < FLOAT else 0)
