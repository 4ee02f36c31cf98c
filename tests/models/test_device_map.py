"""Models spread over GPUs. There is none here: devices are made up, and say where tensors meet."""

import itertools

import accelerate
import pytest
import torch
import transformers
from accelerate.hooks import attach_align_device_hook_on_blocks
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from lse_interp import finetune
from lse_interp.analysis.sentence_vectors import _pooled
from lse_interp.core.cli import ModelArgs
from lse_interp.core.errors import LseError
from lse_interp.counting.counter import NeuronCounter
from lse_interp.models.architectures import find_layout
from lse_interp.models.fingerprint import fingerprint
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from lse_interp.models.placement.device_map import device_map, gpu_share, plan
from tests.tiny_models import FAMILIES, tiny_hf, tiny_tokenizer

N_LAYERS = 6


def tiny(**changes):
    torch.manual_seed(0)
    values = {
        "vocab_size": 40,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": N_LAYERS,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**values | changes)).eval()


def blocks_of(hf):
    return [at.block for at in find_layout(hf).blocks]


def n_bytes(hf, prefix=""):
    """Bytes of parameters and buffers under a path, tied ones once."""
    found = {id(t): t for name, t in (*hf.named_parameters(), *hf.named_buffers())
             if name.startswith(prefix)}  # fmt: skip
    return sum(t.nbytes for t in found.values())


def used(hf, places):
    """Bytes on each GPU, from the tensors up."""
    found = {}
    for name, tensor in (*hf.named_parameters(), *hf.named_buffers()):
        (gpu,) = {places[unit] for unit in places if name.startswith(f"{unit}.")}
        found[gpu] = found.get(gpu, 0) + tensor.nbytes
    return found


@settings(deadline=None)
@given(st.integers(1, 16), st.data())
def test_gpu_share_gives_every_process_as_many(n_gpus, data):
    n_processes = data.draw(st.integers(1, n_gpus))
    shares = [gpu_share(n_gpus, process=i, n_processes=n_processes) for i in range(n_processes)]
    assert {len(share) for share in shares} == {n_gpus // n_processes}
    taken = [gpu for share in shares for gpu in share]
    assert taken == list(range(len(taken)))


def test_gpu_share_refuses_more_processes_than_gpus():
    with pytest.raises(LseError, match="9 processes were started on a machine with 8. Start at"):
        gpu_share(8, process=0, n_processes=9)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.2, 1.0), min_size=2, max_size=4), st.booleans())
def test_plan_is_the_most_even_of_all_consecutive_ones(shares, tied):
    hf = tiny(tie_word_embeddings=tied)
    total = n_bytes(hf)
    memory = {10 + i: int(share * total) for i, share in enumerate(shares)}
    units = [
        *((name, n_bytes(hf, name)) for name in ("model.embed_tokens", *blocks_of(hf))),
        ("model.norm", n_bytes(hf, "model.norm")),
        ("model.rotary_emb", n_bytes(hf, "model.rotary_emb")),
        *([] if tied else [("lm_head", n_bytes(hf, "lm_head"))]),
    ]
    # Every way to cut the units into runs, one for each GPU.
    best = float("inf")
    for cuts in itertools.combinations_with_replacement(range(len(units) + 1), len(memory) - 1):
        edges = (0, *cuts, len(units))
        runs = [units[a:b] for a, b in itertools.pairwise(edges)]
        fullest = max(
            sum(size for _, size in run) / room
            for run, room in zip(runs, memory.values(), strict=True)
        )
        best = min(best, fullest)
    if best > 1:
        with pytest.raises(LseError, match="do not fit"):
            plan(hf, blocks_of(hf), memory=memory, name="tiny")
        return
    places = plan(hf, blocks_of(hf), memory=memory, name="tiny")
    if "" in places:
        return
    found = max(size / memory[gpu] for gpu, size in used(hf, places).items())
    assert found == pytest.approx(best, rel=1e-6)
    assert [places[name] for name, _ in units] == sorted(places[name] for name, _ in units)
    if tied:
        assert places["lm_head"] == places["model.embed_tokens"]


def test_plan_by_hand():
    hf = tiny()
    block = n_bytes(hf, "model.layers.0")
    places = plan(hf, blocks_of(hf), memory={2: 4 * block, 3: 12 * block}, name="tiny")
    # A quarter of the memory, so about a quarter of the model: the embedding and one block.
    assert places["model.embed_tokens"] == places["model.layers.0"] == 2
    assert {places[f"model.layers.{i}"] for i in range(2, N_LAYERS)} == {3}
    assert places["model.norm"] == places["lm_head"] == 3


def test_plan_needs_no_map_where_one_gpu_is_enough():
    hf = tiny()
    places = plan(hf, blocks_of(hf), memory={5: 2 * n_bytes(hf)}, name="tiny")
    assert places == {"": 5}


def test_plan_names_what_does_not_fit():
    hf = tiny()
    room = n_bytes(hf, "model.embed_tokens") + 3 * n_bytes(hf, "model.layers.0")
    with pytest.raises(LseError, match=r"1 GPU\(s\) have .*: model.layers.3 to lm_head do not fit"):
        plan(hf, blocks_of(hf), memory={0: room}, name="tiny")


@pytest.mark.parametrize(
    ("n_gpus", "n_layers"),
    [(2, [40, 40]), (4, [19, 21, 21, 19]), (8, [9, 11, 11, 11, 11, 11, 11, 5])],
)
def test_plan_of_a_model_of_70_billion_parameters(n_gpus, n_layers):
    """Llama-3.1-70B in bfloat16, 141 GB, on GPUs with 72 GB for weights."""
    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=8192,
        intermediate_size=28672,
        num_hidden_layers=80,
        num_attention_heads=64,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    memory = dict.fromkeys(range(n_gpus), 72 * 10**9)
    places = plan(hf, blocks_of(hf), memory=memory, name="70B")
    gpu_of = [places[block] for block in blocks_of(hf)]
    assert [gpu_of.count(gpu) for gpu in memory] == n_layers


@pytest.mark.parametrize("family", FAMILIES)
def test_plan_covers_every_family(family, tmp_path):
    """transformers accepts the map and loads the same weights, all of them on a named device."""
    hf = tiny_hf(family)
    hf.save_pretrained(tmp_path)
    memory = dict.fromkeys((0, 1), int(0.95 * n_bytes(hf)))
    places = plan(hf, blocks_of(hf), memory=memory, name=family)
    assert set(places.values()) == {0, 1}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, device_map=dict.fromkeys(places, "cpu")
    )
    assert fingerprint(loaded) == fingerprint(hf)


def test_device_map_takes_the_share_of_the_process(monkeypatch):
    free = {0: 10, 1: 10, 2: n_bytes(tiny()), 3: 2 * n_bytes(tiny())}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda gpu: (free[gpu], 10**9))
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    places = device_map(tiny().config, dtype="float32", name="tiny")
    assert set(places.values()) == {2, 3}
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(LseError, match=r"The weights of tiny take .* 2 GPU\(s\) have room for"):
        device_map(tiny().config, dtype="float32", name="tiny")


def test_load_model_takes_auto_as_the_cpu_where_there_is_no_gpu():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert load_model("embedded", device="auto").device.type == "cpu"


def spread(hf, devices):
    """Let accelerate move activations between devices, as it does for a loaded device map."""
    attach_align_device_hook_on_blocks(
        hf,
        execution_device={**devices, "": next(iter(devices.values()))},
        offload=dict.fromkeys(devices, False),
    )


def test_spread_model_reads_the_same_and_names_the_backend_that_can():
    """Both devices are the one CPU here, which shows the hooks alone."""
    plain, hf = tiny(), tiny()
    memory = dict.fromkeys((0, 1), int(0.7 * n_bytes(hf)))
    places = plan(hf, blocks_of(hf), memory=memory, name="tiny")
    spread(hf, dict.fromkeys(places, torch.device("cpu")))
    ids = torch.randint(4, 40, (2, 8))
    is_text = torch.ones(2, 8, dtype=torch.bool)
    is_text[0, 3] = False
    counted = []
    for model in (HookedModel(plain, name="tiny"), HookedModel(hf, name="tiny")):
        counter = NeuronCounter(model, "mlp.hook_act")
        counter.add(ids, is_text)
        counted.append(counter.finish(what="text"))
    assert torch.equal(counted[0][0], counted[1][0])
    assert torch.equal(counted[0][1], counted[1][1])
    assert fingerprint(hf) == fingerprint(plain)
    for backend in ("lens", "nnsight"):
        with pytest.raises(LseError, match=f"Backend {backend} holds a model on one device"):
            HookedModel(hf, backend=backend)


@pytest.fixture
def two_devices():
    """A bfloat16 model without values whose last layers are on a second device."""
    hf = tiny().to(torch.bfloat16)
    memory = dict.fromkeys((0, 1), int(0.7 * n_bytes(hf)))
    places = plan(hf, blocks_of(hf), memory=memory, name="tiny")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        for path, gpu in places.items():
            for module in hf.get_submodule(path).modules():
                for name, old in [*module.named_parameters(recurse=False)]:
                    new = torch.empty(old.shape, dtype=old.dtype, device=f"cpu:{gpu}")
                    module.register_parameter(name, torch.nn.Parameter(new, requires_grad=False))
                for name, old in [*module.named_buffers(recurse=False)]:
                    new = torch.empty(old.shape, dtype=old.dtype, device=f"cpu:{gpu}")
                    module.register_buffer(name, new)
        spread(hf, {path: torch.device("cpu", gpu) for path, gpu in places.items()})
    return HookedModel(hf, name="tiny"), mode


def test_two_devices_would_refuse_to_meet(two_devices):
    model, mode = two_devices
    first, last = (model.hf.model.layers[i].mlp.up_proj.weight for i in (0, -1))
    with mode, pytest.raises(RuntimeError, match="two (different )?devices"):
        first + last


def test_counter_counts_each_layer_where_it_runs(two_devices):
    """Without values, whatever asks for one (and so waits for a device) is an error."""
    model, mode = two_devices
    ids, is_text = torch.randint(4, 40, (2, 8)), torch.ones(2, 8, dtype=torch.bool)
    is_text[0, 3] = False
    with mode:
        counter = NeuronCounter(model, "mlp.hook_act")
    counter._leave_out(is_text)
    with mode:
        model.run_with_hooks(ids, counter._hooks, stop_after=model.n_layers - 1)
    devices = [torch.device("cpu", 0), torch.device("cpu", 1)]
    for held in (counter._counts, counter._texts):
        assert list(held) == devices
    for device, counts in counter._counts.items():
        assert counts.n_positive.device == counts.activation_sum.device == device
    with mode:
        assert counter.totals()[0].device == model.device == devices[0]


def test_sentences_are_pooled_where_each_layer_runs(two_devices):
    model, mode = two_devices
    model.tokenizer = tiny_tokenizer()
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(N_LAYERS)]
    with mode:
        pooled = _pooled(model, [[5, 6, 7], [8, 9]], sites=sites, pooling="mean", sinks="drop")
    assert pooled.vectors.shape == (N_LAYERS, 2, model.d_model)
    assert pooled.vectors.device == pooled.n_sinks.device == model.device


def test_offloaded_weights_are_refused_by_name():
    hf = tiny()
    accelerate.cpu_offload(hf, execution_device=torch.device("cpu"))
    with pytest.raises(LseError, match="weights of LlamaForCausalLM are on no device, model.embed"):
        _ = HookedModel(hf, name="tiny").info


def test_fine_tuning_refuses_auto_before_anything_is_loaded(tmp_path):
    config = finetune.Config(
        model=ModelArgs("nowhere", device="auto"), lang="mlt", method="ffn", root=tmp_path
    )
    with pytest.raises(LseError, match="--device auto is for reading activations; .* --use_fsdp"):
        finetune.run(config)
