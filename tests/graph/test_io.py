"""Loading refuses what it must not read; saving is all or nothing and streams the weights."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnx_structdrop.errors import (
    ArgumentError,
    ArgumentTypeError,
    ModelError,
    OutputError,
    StructDropError,
    UnsupportedModelError,
)
from onnx_structdrop.graph import io
from onnx_structdrop.graph.convert import to_proto
from onnx_structdrop.graph.files import external, parsing
from onnx_structdrop.graph.io import load, save

ROOT = Path(__file__).parents[2]
FLOAT = TensorProto.FLOAT
LARGE = 4096
"""Number of floats of a weight that goes to a data file."""

not_as_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permission bits do not stop root"
)


def info(name, shape):
    return helper.make_tensor_value_info(name, FLOAT, shape)


def values(seed, size=LARGE):
    return np.random.default_rng(seed).standard_normal(size).astype(np.float32)


def build(count=3, size=LARGE, **graph):
    """Return x + w0 + w1 + ..., with a small initializer for good measure."""
    names = ["x", *(f"y{n}" for n in range(count))]
    nodes = [helper.make_node("Add", [names[n], f"w{n}"], [names[n + 1]]) for n in range(count)]
    nodes.append(helper.make_node("Mul", [names[-1], "small"], ["out"]))
    tensors = [numpy_helper.from_array(values(n, size), f"w{n}") for n in range(count)]
    tensors.append(numpy_helper.from_array(np.array([2.0], np.float32), "small"))
    return helper.make_model(
        helper.make_graph(nodes, "g", [info("x", [size])], [info("out", [size])], tensors, **graph),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=10,
    )


def run(path, size=LARGE):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.ones(size, np.float32)})[0]


def expected(count=3, size=LARGE):
    return (1 + sum(values(n, size) for n in range(count))) * 2


def write_external(folder, name="m.onnx", data="m.bin", **kwargs):
    path = folder / name
    onnx.save(build(**kwargs), path, save_as_external_data=True, location=data, size_threshold=0)
    return path


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def assert_one_line(error):
    assert str(error)
    assert "\n" not in str(error)
    assert len(str(error)) < 1000


def refused(path, match, kind=ModelError):
    with pytest.raises(kind, match=match) as caught:
        load(path)
    assert_one_line(caught.value)
    return caught.value


# --- load: the file itself ----------------------------------------------------------------------


@pytest.fixture
def inline(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(build().SerializeToString())
    return path


def test_paths_of_every_kind(inline, monkeypatch):
    monkeypatch.chdir(inline.parent)
    for path in (inline, str(inline), inline.name, f"./{inline.name}", Path(inline.name)):
        model = load(path)
        assert isinstance(model, ir.Model)
        assert to_proto(model).SerializeToString() == inline.read_bytes()


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.onnx")), ids=lambda p: p.stem)
def test_exported_models(path, tmp_path):
    save(load(path), tmp_path / "copy.onnx")
    assert run_shapes(tmp_path / "copy.onnx") == run_shapes(path)


def run_shapes(path):
    return onnx.load(path, load_external_data=False).graph.output


def test_missing_file(tmp_path):
    refused(tmp_path / "no.onnx", "does not exist")
    refused(tmp_path / "no" / "no.onnx", "does not exist")
    refused("x" * 5000, "cannot read")


def test_folder(tmp_path):
    refused(tmp_path, "is a folder")


def test_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.onnx")
    refused(tmp_path / "pipe.onnx", "not a regular file")


@not_as_root
def test_unreadable(inline):
    inline.chmod(0)
    refused(inline, "Permission denied")


def test_read_error(inline, monkeypatch):
    def fail(self, mode):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    refused(inline, "cannot read .*m.onnx.*Permission denied")


CONTENTS = {
    "empty": (b"", "is empty"),
    "text": (b"hello, this is not a model\n" * 9, "not an ONNX model"),
    "json": (b'{"graph": {}}', "JSON"),
    "html": (b"<!DOCTYPE html>", "HTML"),
    "zip": (b"PK\x03\x04" + bytes(99), "zip archive"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
    "git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "ort": (b"\x1c\0\0\0ORTM", "ORT format"),
    "tflite": (b"\x1c\0\0\0TFL3", "TensorFlow Lite"),
    "pickle": (b"\x80\x02}q\x00.", "pickle"),
    "zeros": (bytes(1000), "not an ONNX model"),
    "only a version": (onnx.ModelProto(ir_version=8).SerializeToString(), "no graph"),
    "graph proto": (build().graph.SerializeToString(), "not an ONNX model"),
    "tensor proto": (build().graph.initializer[0].SerializeToString(), "not an ONNX model"),
}


@pytest.mark.parametrize(("content", "match"), CONTENTS.values(), ids=CONTENTS)
def test_not_onnx(content, match, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    refused(path, match)


def test_path_in_message_stays_on_one_line(tmp_path):
    path = tmp_path / "a\nb.onnx"
    path.write_bytes(b"no")
    refused(path, r"a\\nb\.onnx")


@pytest.mark.parametrize("path", [None, 3, b"m.onnx", object()])
def test_path_of_wrong_type(path):
    for act in (load, lambda p: save(build(), p)):
        with pytest.raises(ArgumentTypeError, match="path must be"):
            act(path)


@pytest.mark.parametrize("path", ["", "a\0b", "\ud800"])
def test_path_of_no_file(path):
    for act in (load, lambda p: save(build(), p)):
        with pytest.raises(ArgumentError, match="path must name a file"):
            act(path)


def test_every_truncation_is_noticed(tmp_path):
    whole = build(count=1, size=2).SerializeToString()
    path = tmp_path / "m.onnx"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path, "empty|truncated")


def test_too_large(inline, monkeypatch):
    monkeypatch.setattr(parsing, "PROTO_LIMIT", 1000)
    refused(inline, "cannot have more than 1000.*external data")


def test_nesting_bomb(tmp_path):
    def field(number, content):
        length, digits = len(content), b""
        while length > 127:
            digits += bytes([length & 127 | 128])
            length >>= 7
        return bytes([number << 3 | 2]) + digits + bytes([length]) + content

    graph = b""
    for _ in range(200):  # graph.node.attribute.g, which the Python API cannot build
        graph = field(1, field(5, field(6, graph)))
    path = tmp_path / "m.onnx"
    path.write_bytes(onnx.ModelProto(ir_version=8).SerializeToString() + field(7, graph))
    refused(path, "truncated")


def test_giant_shape_is_harmless(tmp_path):
    proto = build()
    proto.graph.initializer[0].dims[0] = 2**60
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    tensor = load(path).graph.initializers["w0"].const_value
    with pytest.raises(ModelError, match="'w0' is broken"):
        tensor.numpy()


def test_what_cannot_be_kept_is_refused(tmp_path):
    proto = build()
    proto.training_info.add().algorithm.name = "step"
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    refused(path, "m.onnx.*training_info", UnsupportedModelError)


def loads_or_refuses(path, content):
    path.write_bytes(content)
    try:
        model = load(path)
    except ModelError as error:
        assert_one_line(error)
    else:
        save(model, path.with_name("copy.onnx"))


fuzz = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@fuzz
@given(content=st.binary(max_size=300))
def test_random_bytes(content, tmp_path):
    loads_or_refuses(tmp_path / "m.onnx", content)


def nested():
    """Return a small model that uses most of the format."""
    proto = build(count=1, size=2)
    branch = helper.make_graph([helper.make_node("Relu", ["x"], ["t"])], "b", [], [info("t", [2])])
    condition = numpy_helper.from_array(np.array(True))
    proto.graph.node.add().CopyFrom(helper.make_node("Constant", [], ["c"], value=condition))
    proto.graph.node.add().CopyFrom(
        helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch)
    )
    proto.graph.initializer.append(external_tensor(location="w.bin"))
    relu = helper.make_node("Relu", ["a"], ["b"], r=[1, 2], s=["text"])
    opset = [helper.make_opsetid("", 17)]
    proto.functions.append(helper.make_function("d", "F", ["a"], ["b"], [relu], opset))
    return proto


@fuzz
@given(data=st.data())
def test_mutated_models(data, tmp_path):
    (tmp_path / "w.bin").write_bytes(bytes(16))
    content = bytearray(nested().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    loads_or_refuses(tmp_path / "m.onnx", bytes(content))


# --- load: external data ------------------------------------------------------------------------


def external_tensor(name="e", dims=(4,), data_type=FLOAT, **entries):
    tensor = TensorProto(
        name=name, data_type=data_type, dims=dims, data_location=TensorProto.EXTERNAL
    )
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    return tensor


def in_initializer(tensor):
    proto = build(count=1, size=4)
    proto.graph.initializer.append(tensor)
    return proto


def in_attribute(tensor):
    proto = build(count=1, size=4)
    proto.graph.node.add().CopyFrom(helper.make_node("Constant", [], ["c"], value=tensor))
    return proto


def in_attribute_list(tensor):
    proto = build(count=1, size=4)
    proto.graph.node[0].attribute.append(helper.make_attribute("ts", [tensor, tensor]))
    return proto


def conditional(branch):
    node = helper.make_node("If", ["c"], ["i"], then_branch=branch, else_branch=branch)
    condition = numpy_helper.from_array(np.array(True))
    return [helper.make_node("Constant", [], ["c"], value=condition), node]


def in_subgraph_initializer(tensor):
    branch = helper.make_graph(
        [helper.make_node("Identity", [tensor.name], ["t"])], "b", [], [info("t", [4])], [tensor]
    )
    inner = helper.make_graph(conditional(branch), "o", [], [info("i", [4])])
    proto = build(count=1, size=4)
    proto.graph.node.extend(conditional(inner))
    return proto


def in_subgraph_attribute(tensor):
    branch = helper.make_graph(
        [helper.make_node("Constant", [], ["t"], value=tensor)], "b", [], [info("t", [4])]
    )
    proto = build(count=1, size=4)
    proto.graph.node.extend(conditional(branch))
    return proto


def in_function(tensor, nodes=None, **fields):
    nodes = nodes or [helper.make_node("Constant", [], ["b"], value=tensor)]
    opset = [helper.make_opsetid("", 17)]
    proto = build(count=1, size=4)
    proto.functions.append(helper.make_function("d", "F", [], ["b"], nodes, opset, **fields))
    return proto


def in_function_default(tensor):
    plain = [helper.make_node("Constant", [], ["b"], value_int=1)]
    return in_function(tensor, plain, attribute_protos=[helper.make_attribute("p", tensor)])


def in_function_subgraph(tensor):
    branch = helper.make_graph(
        [helper.make_node("Identity", [tensor.name], ["t"])], "b", [], [info("t", [4])], [tensor]
    )
    nodes = conditional(branch)
    nodes[1].output[0] = "b"
    return in_function(tensor, nodes)


PLACES = [
    in_initializer,
    in_attribute,
    in_attribute_list,
    in_subgraph_initializer,
    in_subgraph_attribute,
    in_function,
    in_function_default,
    in_function_subgraph,
]


def external_tensors(model):
    return [t for t, _, _ in external.tensor_slots(model) if isinstance(t, ir.ExternalTensor)]


@pytest.fixture
def folder(tmp_path):
    """Return the folder of a model, with a secret outside and every trap inside."""
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    inside = tmp_path / "models"
    (inside / "sub").mkdir(parents=True)
    (inside / "w.bin").write_bytes(np.arange(16, dtype=np.float32).tobytes())
    (inside / "sub" / "w.bin").write_bytes(bytes(64))
    (inside / "link.bin").symlink_to("w.bin")
    (inside / "out.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "dangling.bin").symlink_to("nothing")
    (inside / "linked").symlink_to("sub")
    (inside / "up").symlink_to(tmp_path)
    os.link(tmp_path / "secret.bin", inside / "hard.bin")
    os.mkfifo(inside / "pipe.bin")
    return inside


def write_model(folder, proto):
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("location", ["w.bin", "./w.bin", "sub//w.bin"])
def test_external_data_in_every_place(place, location, folder, monkeypatch):
    tensor = external_tensor(location=location, offset="16", length="16")
    path = write_model(folder, place(tensor))
    monkeypatch.chdir(folder)
    for name in (path, path.name):
        found = external_tensors(load(name))
        assert found
        monkeypatch.chdir("/")  # what a relative path meant must not change afterwards
        for each in found:
            start = 4 if location.endswith("./w.bin") or location == "w.bin" else 0
            wanted = np.arange(start, start + 4) if start else np.zeros(4)
            np.testing.assert_array_equal(each.numpy(), wanted)
        monkeypatch.chdir(folder)


LOCATIONS = {
    "../secret.bin": "'..'",
    "sub/../../secret.bin": "'..'",
    "sub/../w.bin": "'..'",
    "/etc/passwd": "relative",
    "//host/share": "relative",
    "C:\\secret.bin": "forward slashes",
    "C:secret.bin": "relative",
    "..\\secret.bin": "forward slashes",
    "": "names no file",
    ".": "names no file",
    None: "names no file",
    "link.bin": "symbolic link",
    "out.bin": "symbolic link",
    "dangling.bin": "symbolic link",
    "linked/w.bin": "symbolic link",
    "up/secret.bin": "symbolic link",
    "hard.bin": "hard links",
    "pipe.bin": "not a regular file",
    "sub": "not a regular file",
    "missing.bin": "missing.bin' does not exist",
    "w.bin/x": "Not a directory",
    "w\0.bin": "null",
    "x" * 5000: "too long",
}


@pytest.mark.parametrize(("location", "match"), LOCATIONS.items(), ids=lambda x: str(x)[:20])
def test_refused_locations(location, match, folder, monkeypatch):
    path = write_model(folder, in_initializer(external_tensor(location=location)))
    refused(path, f"tensor 'e' refers to external data .*{match}")
    monkeypatch.chdir(folder)
    refused(path.name, match)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.__name__)
@pytest.mark.parametrize("location", ["../secret.bin", "hard.bin", "out.bin", "missing.bin"])
def test_refused_in_every_place(place, location, folder):
    path = write_model(folder, place(external_tensor(location=location)))
    refused(path, f"tensor 'e' refers to external data '{location}'")


def test_refused_in_sparse_tensors_and_training_info(folder):
    bad = external_tensor(location="../secret.bin")
    sparse = onnx.SparseTensorProto(values=bad, indices=bad, dims=[4])
    for add in (
        lambda p: p.graph.sparse_initializer.append(sparse),
        lambda p: p.graph.node[0].attribute.append(helper.make_attribute("s", sparse)),
        lambda p: p.training_info.add().initialization.initializer.append(bad),
    ):
        proto = build(count=1, size=4)
        add(proto)
        refused(write_model(folder, proto), r"'\.\./secret\.bin'")


EXTENTS = {
    "offset beyond": ({"offset": "65"}, "ends at byte 81.*64 bytes"),
    "end beyond": ({"offset": "52"}, "ends at byte 68"),
    "length short": ({"length": "12"}, "length is 12.*make 16"),
    "length long": ({"length": "64"}, "length is 64"),
    "length zero": ({"length": "0"}, "length is 0"),
    "offset negative": ({"offset": "-4"}, "not a number"),
    "offset hex": ({"offset": "0x10"}, "not a number"),
    "offset spaced": ({"offset": " 4"}, "not a number"),
    "offset foreign digits": ({"offset": "٤"}, "not a number"),
    "offset empty": ({"offset": ""}, "not a number"),
    "offset endless": ({"offset": "9" * 5000}, "not a number"),
    "too many": ({"dims": (17,)}, "ends at byte 68"),
    "overflow": ({"dims": (2**62, 2**62)}, "ends at byte"),
    "negative": ({"dims": (-4,)}, "negative"),
    "strings": ({"data_type": TensorProto.STRING}, "STRING cannot be external"),
    "undefined": ({"data_type": 0}, "UNDEFINED cannot be external"),
    "unknown type": ({"data_type": 99}, "99"),
}


@pytest.mark.parametrize(("fields", "match"), EXTENTS.values(), ids=EXTENTS)
def test_refused_extents(fields, match, folder):
    tensor = external_tensor(**{"location": "w.bin", **fields})
    refused(write_model(folder, in_initializer(tensor)), match)


@pytest.mark.parametrize(
    ("data_type", "dims", "size"),
    [(TensorProto.INT4, (3,), 2), (TensorProto.FLOAT16, (), 2), (TensorProto.DOUBLE, (0, 3), 0)],
)
def test_sizes_of_types(data_type, dims, size, folder):
    tensor = external_tensor(location="w.bin", dims=dims, data_type=data_type, length=str(size))
    (found,) = external_tensors(load(write_model(folder, in_initializer(tensor))))
    assert found.numpy().shape == dims


def test_unknown_keys_are_no_reason_to_warn(folder):
    tensor = external_tensor(location="w.bin", checksum="abc", prepacked_0="x")
    assert load(write_model(folder, in_initializer(tensor)))


@not_as_root
def test_unreadable_data(folder):
    (folder / "w.bin").chmod(0)
    refused(write_model(folder, in_initializer(external_tensor(location="w.bin"))), "not readable")


def test_folder_reached_by_a_link_is_fine(folder, tmp_path):
    (tmp_path / "alias").symlink_to(folder)
    write_model(folder, in_initializer(external_tensor(location="sub/w.bin")))
    assert load(tmp_path / "alias" / "m.onnx")


def test_link_planted_after_loading_is_not_followed(folder, tmp_path):
    model = load(write_model(folder, in_initializer(external_tensor(location="w.bin"))))
    (folder / "w.bin").unlink()
    (folder / "w.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(ValueError, match="outside"):
        external_tensors(model)[0].numpy()
    with pytest.raises(ModelError, match="symbolic link"):
        save(model, tmp_path / "copy.onnx")


def in_fresh_process(code, *arguments):
    """Run code that prints numbers; its peak memory must not include this process's."""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [int(word) for word in result.stdout.split()]


PEAK = """
import pathlib, re, sys
from onnx_structdrop.graph.io import load, save
def peak():
    # Not ru_maxrss: that one counts the process that started this one as well.
    status = pathlib.Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) // 1024)
"""


def write_sparse_model(folder, count, megabytes):
    """Write a model with weights of zeros that take no room on disk."""
    size = megabytes << 18
    tensors = [
        external_tensor(f"w{n}", (size,), location="m.bin", offset=str(4 * size * n))
        for n in range(count)
    ]
    proto = build(count, size=1)
    del proto.graph.initializer[:count]
    proto.graph.initializer.extend(tensors)
    with (folder / "m.bin").open("wb") as file:
        file.truncate(4 * size * count)
    return write_model(folder, proto)


def test_loading_more_than_2_gb_takes_no_memory(tmp_path):
    path = write_sparse_model(tmp_path, count=9, megabytes=256)
    assert (tmp_path / "m.bin").stat().st_size > 2**31
    code = PEAK + (
        "model = load(sys.argv[1]); peak()\n"
        "assert model.graph.initializers['w8'].const_value.numpy()[-1] == 0\n"
        "save(model, sys.argv[1]); peak()\n"
    )
    before, after = in_fresh_process(code, path)
    assert before < 300
    assert after < 300
    assert listing(tmp_path) == ["m.bin", "m.onnx"]


def test_saving_streams_the_weights(tmp_path):
    path = write_sparse_model(tmp_path, count=3, megabytes=100)
    code = PEAK + "model = load(sys.argv[1]); peak()\nsave(model, sys.argv[2]); peak()\n"
    before, after = in_fresh_process(code, path, tmp_path / "copy.onnx")
    assert after - before < 60
    assert (tmp_path / "copy.onnx.data").stat().st_size == 300 * 2**20


# --- save: one file -----------------------------------------------------------------------------


def both_kinds(proto):
    return [proto, ir.from_proto(proto)]


def test_both_kinds_are_written_alike(tmp_path):
    proto = build()
    before = proto.SerializeToString()
    for model in both_kinds(proto):
        save(model, tmp_path / "m.onnx")
        assert listing(tmp_path) == ["m.onnx"]
        assert load(tmp_path / "m.onnx").graph.name == "g"
        np.testing.assert_allclose(run(tmp_path / "m.onnx"), expected(), rtol=1e-5, atol=1e-5)
    assert proto.SerializeToString() == before


def test_proto_is_written_as_it_is(tmp_path):
    proto = build()
    proto.training_info.add().algorithm.name = "step"
    proto.graph.value_info.append(info("unknown", [1]))
    save(proto, tmp_path / "m.onnx")
    assert (tmp_path / "m.onnx").read_bytes() == proto.SerializeToString()


def test_bare_file_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save(build(), "m.onnx", external_data="w")
    np.testing.assert_allclose(run("m.onnx"), expected(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_file_has_the_mode_of_the_umask(umask, tmp_path):
    old = os.umask(umask)
    try:
        save(build(), tmp_path / "m.onnx", external_data="m.data")
    finally:
        os.umask(old)
    for name in ("m.onnx", "m.data"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o666 & ~umask


def test_replaced_file_passes_on_its_mode(tmp_path):
    for _ in range(2):
        save(build(), tmp_path / "m.onnx", external_data="m.data")
        (tmp_path / "m.onnx").chmod(0o640)
        (tmp_path / "m.data").chmod(0o604)
    save(build(), tmp_path / "m.onnx", external_data="m.data")
    assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "m.data").stat().st_mode) == 0o604


def test_link_is_replaced_not_written_through(tmp_path):
    (tmp_path / "real.onnx").write_bytes(b"precious")
    (tmp_path / "m.onnx").symlink_to("real.onnx")
    save(build(), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").is_symlink()
    assert (tmp_path / "real.onnx").read_bytes() == b"precious"


def cannot_write(path, match, model=None, **options):
    folder = path.parent if path.parent.is_dir() else path.parent.parent
    before = contents(folder)
    with pytest.raises(OutputError, match=match) as caught:
        save(build() if model is None else model, path, **options)
    assert_one_line(caught.value)
    assert contents(folder) == before


def test_targets_that_cannot_be_written(tmp_path):
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    os.mkfifo(tmp_path / "pipe.onnx")
    cannot_write(tmp_path / "folder.onnx", "it is a folder")
    cannot_write(tmp_path / "no" / "m.onnx", "no folder")
    cannot_write(tmp_path / "file" / "m.onnx", "no folder")
    cannot_write(tmp_path / "pipe.onnx", "not a regular file")
    cannot_write(tmp_path / ("x" * 300), "too long")
    cannot_write(Path("/dev/null"), "not a regular file")


def test_overwriting_can_be_forbidden(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"old")
    (tmp_path / "w.data").write_bytes(b"old")
    (tmp_path / "dangling.onnx").symlink_to("nothing")
    for name in ("m.onnx", "dangling.onnx"):
        cannot_write(tmp_path / name, "it exists", overwrite=False)
    cannot_write(tmp_path / "n.onnx", "it exists", external_data="w.data", overwrite=False)
    save(build(), tmp_path / "n.onnx", overwrite=False)


@not_as_root
def test_read_only_folder_and_file(tmp_path):
    save(build(), tmp_path / "m.onnx")
    (tmp_path / "m.onnx").chmod(0o444)
    cannot_write(tmp_path / "m.onnx", "read-only")
    tmp_path.chmod(0o555)
    cannot_write(tmp_path / "n.onnx", "Permission denied")
    tmp_path.chmod(0o755)


def test_read_only_folder_simulated(tmp_path, monkeypatch):
    real = os.open

    def fail(path, flags, *rest, **options):
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", fail)
    cannot_write(tmp_path / "m.onnx", "Permission denied")


class UnforeseenError(Exception):
    """Stands for anything else."""


FAILURES = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    KeyboardInterrupt(),
    UnforeseenError("unforeseen"),
]


@pytest.mark.parametrize("data", [None, "m.data"])
@pytest.mark.parametrize("existing", [True, False], ids=["replacing", "new"])
@pytest.mark.parametrize("step", ["fsync", "replace", "rename", "tofile", "serialise"])
@pytest.mark.parametrize("successes", [0, 1])
def test_failure_leaves_everything_as_it_was(
    data, existing, step, successes, tmp_path, monkeypatch
):
    """Whatever fails at whatever step, the old files are there and nothing else."""
    path = tmp_path / "m.onnx"
    if existing:
        save(build(count=2), path, external_data=data)
    before = contents(tmp_path)
    owner, name = {
        "fsync": (os, "fsync"),
        "replace": (Path, "replace"),
        "rename": (Path, "rename"),
        "tofile": (ir.TensorProtoTensor, "tofile"),
        "serialise": (io, "_serialise"),
    }[step]
    real = getattr(owner, name)
    for failure in FAILURES:
        calls = []

        def fail_once(*args, failure=failure, calls=calls):
            if step == "fsync" and stat.S_ISDIR(os.fstat(*args).st_mode):
                return real(*args)  # then everything is in place
            calls.append(args)
            if len(calls) == successes + 1:
                raise failure
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail_once)
            wanted = OutputError if isinstance(failure, OSError) else type(failure)
            caught = None
            try:
                save(ir.from_proto(build()), path, external_data=data)
            except wanted as error:
                caught = error
        if caught is None:
            assert len(calls) <= successes, "the failure was swallowed"
            return  # the step does not come up so often
        if isinstance(failure, OSError):
            assert_one_line(caught)
            assert failure.strerror in str(caught)
        assert contents(tmp_path) == before
        assert listing(tmp_path) == sorted(before)
        if existing:
            np.testing.assert_allclose(run(path), expected(2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("data", ["m.data", None])
def test_disk_that_really_fills_up(data, tmp_path):
    """A limit on the file size makes the kernel refuse a write in the middle."""
    save(build(), tmp_path / "source.onnx")
    save(build(count=1), tmp_path / "m.onnx", external_data=data)
    before = contents(tmp_path)
    code = f"""
import resource, signal, sys
from onnx_structdrop.errors import OutputError
from onnx_structdrop.graph.io import load, save
model = load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    save(model, sys.argv[2], external_data={data!r})
except OutputError as error:
    print(int("File too large" in str(error)))
"""
    assert in_fresh_process(code, tmp_path / "source.onnx", tmp_path / "m.onnx") == [1]
    assert contents(tmp_path) == before


# --- save: external data ------------------------------------------------------------------------

NAMES = ["", ".", "..", "a/b", "/tmp/w", "../w", "a\\b", "C:w", "a\0b", "m.onnx", "\ud800"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_data_file_names_that_are_refused(name, tmp_path):
    with pytest.raises(ArgumentError, match="external_data must"):
        save(build(), tmp_path / "m.onnx", external_data=name)
    assert listing(tmp_path) == []


@pytest.mark.parametrize("name", [True, b"w", Path("w")])
def test_data_file_name_of_wrong_type(name, tmp_path):
    with pytest.raises(ArgumentTypeError, match="external_data must be a str"):
        save(build(), tmp_path / "m.onnx", external_data=name)


def references(path):
    """Return the location, offset and length of every external tensor in a file, by name."""
    proto = onnx.load(path, load_external_data=False)
    return {
        tensor.name: tuple(entry.value for entry in tensor.external_data)
        for tensor in external.external_tensors(proto)
    }


@pytest.mark.parametrize("kind", [0, 1], ids=["proto", "ir"])
def test_weights_go_to_the_named_file(kind, tmp_path):
    proto = build()
    model = both_kinds(proto)[kind]
    before = proto.SerializeToString()
    path = tmp_path / "m.onnx"
    save(model, path, external_data="weights.bin")
    assert listing(tmp_path) == ["m.onnx", "weights.bin"]
    assert references(path).keys() == {"w0", "w1", "w2"}, "small tensors stay inline"
    assert path.stat().st_size < 2000
    np.testing.assert_allclose(run(path), expected(), rtol=1e-5, atol=1e-5)
    assert onnx.load(path).graph.initializer[2].raw_data == proto.graph.initializer[2].raw_data
    assert proto.SerializeToString() == before
    onnx.checker.check_model(path, full_check=True)


def test_offsets_are_aligned(tmp_path):
    sizes = [1000, 1 << 18, (1 << 18) + 1, 300, 1 << 19]
    tensors = [numpy_helper.from_array(values(n, s), f"w{n}") for n, s in enumerate(sizes)]
    path = tmp_path / "m.onnx"
    proto = build(count=0)
    proto.graph.initializer.extend(tensors)
    save(proto, path, external_data="w")
    for (_, offset, length), size in zip(references(path).values(), sizes, strict=True):
        assert int(length) == 4 * size
        assert int(offset) % (65536 if 4 * size > 1 << 20 else 64) == 0
    for tensor, name in zip(tensors, references(path), strict=True):
        loaded = load(path).graph.initializers[name].const_value
        assert loaded.tobytes() == tensor.raw_data


def test_nothing_to_put_outside(tmp_path):
    save(build(count=1, size=4), tmp_path / "m.onnx", external_data="w")
    assert listing(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("kind", [0, 1], ids=["proto", "ir"])
def test_model_too_large_for_one_file(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(io, "PROTO_LIMIT", 20_000)
    monkeypatch.setattr(io, "_STRUCTURE", 4_000)
    save(both_kinds(build())[kind], tmp_path / "m.onnx")
    assert listing(tmp_path) == ["m.onnx", "m.onnx.data"]
    np.testing.assert_allclose(run(tmp_path / "m.onnx"), expected(), rtol=1e-5, atol=1e-5)


def test_model_too_large_even_without_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "PROTO_LIMIT", 100)
    cannot_write(tmp_path / "m.onnx", "larger than the 100 bytes", external_data="w")


def test_external_model_stays_external(tmp_path):
    source = write_external(tmp_path)
    model = load(source)
    before = to_proto(model).SerializeToString()
    (tmp_path / "new").mkdir()
    save(model, tmp_path / "new" / "n.onnx")
    assert listing(tmp_path / "new") == ["n.onnx", "n.onnx.data"]
    np.testing.assert_allclose(run(tmp_path / "new" / "n.onnx"), expected(), rtol=1e-5, atol=1e-5)
    assert "small" not in references(tmp_path / "new" / "n.onnx")
    assert to_proto(model).SerializeToString() == before
    assert model.graph.initializers["w1"].const_value.base_dir == str(tmp_path)


def test_every_place_is_carried_over(folder, tmp_path):
    for place in PLACES:
        for dims in ((4,), (16, 20)):
            (folder / "big.bin").write_bytes(np.arange(320, dtype=np.float32).tobytes())
            model = load(write_model(folder, place(external_tensor(location="big.bin", dims=dims))))
            wanted = {t.name: t.tobytes() for t, _, _ in external.tensor_slots(model)}
            target = tmp_path / f"{place.__name__}{len(dims)}" / "n.onnx"
            target.parent.mkdir()
            save(model, target)
            copy = load(target)
            assert {t.name: t.tobytes() for t, _, _ in external.tensor_slots(copy)} == wanted
            assert bool(external_tensors(copy)) == (len(dims) == 2)
            if len(dims) == 2:
                assert (target.parent / "n.onnx.data").stat().st_size == 1280, "written once"


def test_saving_is_deterministic(tmp_path):
    source = write_external(tmp_path)
    for name in "ab":
        (tmp_path / name).mkdir()
        save(load(source), tmp_path / name / "m.onnx")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_tensors_of_other_kinds(tmp_path):
    array = values(0)
    model = ir.from_proto(build(count=4))
    model.graph.initializers["w0"].const_value = ir.Tensor(array)
    model.graph.initializers["w1"].const_value = ir.LazyTensor(
        lambda: ir.Tensor(array), dtype=ir.DataType.FLOAT, shape=ir.Shape([LARGE])
    )
    packed = numpy_helper.from_array(array.astype(">f4").astype("<f4"), "w2")
    model.graph.initializers["w2"].const_value = ir.TensorProtoTensor(packed)
    save(model, tmp_path / "m.onnx", external_data="w")
    loaded = load(tmp_path / "m.onnx")
    for name in ("w0", "w1", "w2"):
        np.testing.assert_array_equal(loaded.graph.initializers[name].const_value, array)


def test_tensor_with_too_few_bytes(tmp_path):
    proto = build()
    proto.graph.initializer[1].raw_data = bytes(2000)
    with pytest.raises(ModelError, match=r"'w1' holds 2000 bytes.*make 16384"):
        save(proto, tmp_path / "m.onnx", external_data="w")
    assert listing(tmp_path) == []


def test_unloaded_proto_is_refused(tmp_path):
    proto = onnx.load(write_external(tmp_path), load_external_data=False)
    before = contents(tmp_path)
    for name in (None, "w"):
        with pytest.raises(ModelError, match=r"'w0'.*was not loaded.*load\(path\)"):
            save(proto, tmp_path / "n.onnx", external_data=name)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("name", ["m.onnx", "sub/m.onnx"])
def test_models_that_onnx_ir_loaded_by_a_relative_name(name, tmp_path, monkeypatch):
    (tmp_path / "sub").mkdir()
    write_external((tmp_path / name).parent)
    monkeypatch.chdir(tmp_path)
    save(ir.load(name), "n.onnx")
    np.testing.assert_allclose(run("n.onnx"), expected(), rtol=1e-5, atol=1e-5)


def test_models_that_onnx_ir_loaded_are_checked_too(folder, tmp_path, monkeypatch):
    write_model(folder, in_initializer(external_tensor(location="../secret.bin")))
    monkeypatch.chdir(folder)
    model = ir.load("m.onnx")
    with pytest.raises(ModelError, match=r"'\.\.'"):
        save(model, tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()


def test_data_that_vanished(tmp_path):
    source = write_external(tmp_path)
    model = load(source)
    (tmp_path / "m.bin").unlink()
    with pytest.raises(ModelError, match=r"'w0'.*m\.bin' does not exist"):
        save(model, source)
    assert listing(tmp_path) == ["m.onnx"]


def identity(path):
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size


@pytest.mark.parametrize("data", [None, "m.bin"])
def test_in_place_without_new_weights_leaves_the_data_file_alone(data, tmp_path):
    source = write_external(tmp_path)
    model = load(source)
    untouched = identity(tmp_path / "m.bin")
    model.graph.name = "renamed"
    model.graph.initializers["w0"].name = "other"
    save(model, source, external_data=data)
    assert identity(tmp_path / "m.bin") == untouched
    assert listing(tmp_path) == ["m.bin", "m.onnx"]
    assert load(source).graph.name == "renamed"
    np.testing.assert_allclose(run(source), expected(), rtol=1e-5, atol=1e-5)


def test_in_place_with_new_weights_keeps_every_model_valid(tmp_path):
    source = write_external(tmp_path)
    model, other, opened = load(source), load(source), load(source)
    for value in opened.graph.initializers.values():
        value.const_value.numpy()
    model.graph.initializers["w1"].const_value = ir.Tensor(values(7), name="w1")
    save(model, source)
    assert listing(tmp_path) == ["m.bin", "m.onnx"]
    wanted = (1 + values(0) + values(7) + values(2)) * 2
    np.testing.assert_allclose(run(source), wanted, rtol=1e-5, atol=1e-5)
    for old in (other, opened):
        for n in range(3):
            np.testing.assert_array_equal(
                old.graph.initializers[f"w{n}"].const_value.numpy(), values(n)
            )
    for n in (0, 2):
        np.testing.assert_array_equal(
            model.graph.initializers[f"w{n}"].const_value.numpy(), values(n)
        )
    save(load(source), source)
    np.testing.assert_allclose(run(source), wanted, rtol=1e-5, atol=1e-5)


def test_in_place_under_another_data_name(tmp_path):
    source = write_external(tmp_path)
    save(load(source), source, external_data="new.bin")
    assert {location for location, *_ in references(source).values()} == {"new.bin"}
    np.testing.assert_allclose(run(source), expected(), rtol=1e-5, atol=1e-5)


def test_copy_in_the_same_folder_gets_its_own_data(tmp_path):
    source = write_external(tmp_path)
    before = contents(tmp_path)
    save(load(source), tmp_path / "n.onnx")
    assert listing(tmp_path) == ["m.bin", "m.onnx", "n.onnx", "n.onnx.data"]
    assert contents(tmp_path).items() > before.items()
    (tmp_path / "m.bin").unlink()
    np.testing.assert_allclose(run(tmp_path / "n.onnx"), expected(), rtol=1e-5, atol=1e-5)


def test_data_can_be_shared_on_request(tmp_path):
    source = write_external(tmp_path)
    untouched = identity(tmp_path / "m.bin")
    save(load(source), tmp_path / "n.onnx", external_data="m.bin", overwrite=False)
    assert identity(tmp_path / "m.bin") == untouched
    for path in (source, tmp_path / "n.onnx"):
        np.testing.assert_allclose(run(path), expected(), rtol=1e-5, atol=1e-5)


def test_shared_data_are_not_extended_without_leave(tmp_path):
    model = load(write_external(tmp_path))
    model.graph.initializers["w1"].const_value = ir.Tensor(values(7), name="w1")
    cannot_write(
        tmp_path / "n.onnx", "m.bin.*it exists", model, external_data="m.bin", overwrite=False
    )


def test_data_in_several_files_are_gathered(tmp_path):
    onnx.save(
        build(), tmp_path / "m.onnx", save_as_external_data=True, all_tensors_to_one_file=False,
        size_threshold=0,
    )  # fmt: skip
    (tmp_path / "new").mkdir()
    save(load(tmp_path / "m.onnx"), tmp_path / "new" / "m.onnx")
    assert listing(tmp_path / "new") == ["m.onnx", "m.onnx.data"]
    np.testing.assert_allclose(run(tmp_path / "new" / "m.onnx"), expected(), rtol=1e-5, atol=1e-5)


def test_data_of_something_else_are_not_replaced(tmp_path):
    write_external(tmp_path)
    write_external(tmp_path, name="other.onnx", data="other.bin", count=1)
    (tmp_path / "note.txt").write_text("hello")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("m.bin")
    target = tmp_path / "m.onnx"
    for name in ("other.bin", "note.txt"):
        cannot_write(target, "does not belong to", external_data=name)
    cannot_write(tmp_path / "n.onnx", "does not belong to", external_data="m.bin")
    cannot_write(target, "not a regular file", external_data="folder")
    cannot_write(target, "not a regular file", external_data="link")
    (tmp_path / "m.onnx").write_bytes(b"broken")
    cannot_write(target, "does not belong to", external_data="m.bin")


def self_contained_reference(folder):
    """Write a model whose weights are in the very file that refers to them, behind the model."""
    path = folder / "m.onnx"
    proto = build(count=1)
    weights = values(0).tobytes()
    tensor = proto.graph.initializer[0]
    # A field that no parser knows holds them: number 500, length-delimited.
    head = bytes([0xA2, 0x1F]) + _varint(len(weights))
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "m.onnx"), ("offset", "0000000")):
        tensor.external_data.add(key=key, value=value)
    offset = len(proto.SerializeToString()) + len(head)
    tensor.external_data[1].value = f"{offset:07}"
    path.write_bytes(proto.SerializeToString() + head + weights)
    return path


def _varint(number):
    digits = []
    while number > 127:
        digits.append(number & 127 | 128)
        number >>= 7
    return bytes([*digits, number])


@pytest.mark.parametrize("data", [None, "n.bin", "m.bin"])
def test_the_model_does_not_replace_its_own_weights(data, tmp_path):
    model = load(write_external(tmp_path))
    before = contents(tmp_path)
    if data == "m.bin":
        with pytest.raises(ArgumentError, match="must differ from the model file"):
            save(model, tmp_path / "m.bin", external_data=data)
    else:
        with pytest.raises(
            OutputError, match=r"m\.bin': the weights of the model are in this very"
        ):
            save(model, tmp_path / "m.bin", external_data=data)
    assert contents(tmp_path) == before
    np.testing.assert_array_equal(model.graph.initializers["w1"].const_value.numpy(), values(1))
    np.testing.assert_allclose(run(tmp_path / "m.onnx"), expected(), rtol=1e-5, atol=1e-5)


def test_the_model_does_not_replace_its_own_weights_by_another_way(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "way").symlink_to("folder", target_is_directory=True)
    model = load(write_external(folder))
    before = contents(folder)
    with pytest.raises(OutputError, match="in this very file"):
        save(model, tmp_path / "way" / "m.bin")
    assert contents(folder) == before
    # A link to the data is replaced, and they are left alone.
    (tmp_path / "link").symlink_to("folder/m.bin")
    save(model, tmp_path / "link")
    assert contents(folder) == before
    np.testing.assert_allclose(run(tmp_path / "link"), expected(), rtol=1e-5, atol=1e-5)


def test_weights_inside_the_model_file(tmp_path):
    """A location may be the model file itself; replacing that would pull the weights away."""
    path = self_contained_reference(tmp_path)
    model = load(path)
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="in this very file"):
        save(model, path)
    assert contents(tmp_path) == before
    save(model, tmp_path / "n.onnx")
    np.testing.assert_allclose(run(tmp_path / "n.onnx"), expected(1), rtol=1e-5, atol=1e-5)


def test_a_data_file_that_is_the_model_file_under_another_name(tmp_path):
    target = write_external(tmp_path)
    os.link(target, tmp_path / "twin")
    before = contents(tmp_path)
    with pytest.raises(OutputError, match="the model file itself, under another name"):
        save(build(), target, external_data="twin")
    assert contents(tmp_path) == before


def test_own_data_are_replaced(tmp_path):
    target = write_external(tmp_path, count=5)
    save(build(), target, external_data="m.bin")
    assert listing(tmp_path) == ["m.bin", "m.onnx"]
    assert (tmp_path / "m.bin").stat().st_size == 3 * 4 * LARGE
    np.testing.assert_allclose(run(target), expected(), rtol=1e-5, atol=1e-5)


def test_saving_what_is_no_model(tmp_path):
    with pytest.raises(ArgumentTypeError, match="model must be"):
        save("m.onnx", tmp_path / "n.onnx")
    with pytest.raises(ModelError, match="not an ONNX model"):
        save(onnx.ModelProto(), tmp_path / "n.onnx")
    assert listing(tmp_path) == []


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000), max_size=6),
    types=st.lists(st.sampled_from([np.float32, np.float16, np.int8, np.float64]), min_size=6),
    name=st.sampled_from([None, "w.data"]),
    rounds=st.integers(1, 3),
)
def test_any_weights_come_back(tmp_path_factory, sizes, types, name, rounds):
    """Saved, loaded, changed in place: every tensor keeps its bytes, type and shape."""
    folder = tmp_path_factory.mktemp("any")
    proto = build(count=0, size=1)
    arrays = {}
    for n, (size, kind) in enumerate(zip(sizes, types, strict=False)):
        arrays[f"w{n}"] = (values(n, size) * 9).astype(kind)
        proto.graph.initializer.append(numpy_helper.from_array(arrays[f"w{n}"], f"w{n}"))
    path = folder / "m.onnx"
    save(proto, path, external_data=name)
    for extra in range(rounds):
        model = load(path)
        for key, array in arrays.items():
            tensor = model.graph.initializers[key].const_value
            assert tensor.dtype.numpy() == array.dtype
            np.testing.assert_array_equal(tensor.numpy(), array)
        added = f"added{extra}"
        arrays[added] = values(extra, 700)
        value = ir.Value(name=added, const_value=ir.Tensor(arrays[added], name=added))
        model.graph.initializers.add(value)
        save(model, path)
    assert not [file for file in listing(folder) if file.endswith(".tmp")]


def test_errors_derive_from_one_class():
    for kind in (ModelError, OutputError, ArgumentError, ArgumentTypeError):
        assert issubclass(kind, StructDropError)


@pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="no device files on this system")
def test_device_links_are_not_replaced():
    """Redirected into a file, /dev/stdout is a link to a regular file."""
    before = os.readlink("/dev/stdout")  # noqa: PTH115
    with pytest.raises(OutputError, match="models are written to regular files"):
        save(build(), "/dev/stdout")
    assert os.readlink("/dev/stdout") == before  # noqa: PTH115


# Files are read and written piece by piece


def of_all_sizes():
    """Return a model with small and large weights, of all ways to hold them."""
    weights = [
        numpy_helper.from_array(np.arange(count, dtype=dtype), f"w_{number}")
        for number, (count, dtype) in enumerate(
            [(1, np.float32), (300_000, np.float32), (0, np.int64), (5_000, np.int64),
             (70_000, np.float16), (40_000, np.uint8)]
        )
    ]  # fmt: skip
    listed = TensorProto(name="listed", data_type=FLOAT, dims=[20_000])
    listed.float_data.extend(np.ones(20_000, np.float32))
    weights += [listed, helper.make_tensor("texts", TensorProto.STRING, [2], [b"a", b"b"])]
    weights[1].doc_string = "documented"
    weights[1].metadata_props.add(key="from", value="here")
    weights[3].data_location = TensorProto.DEFAULT
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w_0"], ["y"])],
        "sizes",
        [helper.make_tensor_value_info("x", FLOAT, [1])],
        [helper.make_tensor_value_info("y", FLOAT, [1])],
        weights,
        doc_string="behind the weights",
    )
    annotation = graph.quantization_annotation.add(tensor_name="w_1")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="w_0")
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10, producer_name="me"
    )
    model.metadata_props.add(key="k", value="v")
    return model


def stored(path, proto):
    path.write_bytes(proto.SerializeToString())
    return path


def test_a_file_is_as_if_written_at_once(tmp_path):
    source, target = tmp_path / "source.onnx", tmp_path / "target.onnx"
    proto = of_all_sizes()
    source.write_bytes(proto.SerializeToString())
    model = load(source)
    save(model, target)
    assert target.read_bytes() == source.read_bytes()
    # Weights that onnx-ir holds itself go the same way.
    value = model.graph.initializers["w_1"]
    value.const_value = ir.Tensor(value.const_value.numpy(), name="w_1", doc_string="new")
    save(model, target)
    assert target.read_bytes() == to_proto(model).SerializeToString()


def test_saving_renames_no_tensor_of_the_caller(tmp_path):
    model = load(stored(tmp_path / "m.onnx", of_all_sizes()))
    tensor = ir.Tensor(np.zeros(9_000, np.float32), name="of another model")
    model.graph.initializers["w_1"].const_value = tensor
    save(model, tmp_path / "n.onnx")
    assert tensor.name == "of another model"
    assert "w_1" in load(tmp_path / "n.onnx").graph.initializers


def test_a_weight_of_the_wrong_length_is_written_as_it_is(tmp_path):
    proto = of_all_sizes()
    del proto.graph.initializer[2:]
    proto.graph.initializer[1].raw_data += b"more"
    source = stored(tmp_path / "m.onnx", proto)
    save(load(source), tmp_path / "n.onnx")
    assert (tmp_path / "n.onnx").read_bytes() == source.read_bytes()


def test_nodes_out_of_order_are_not_written(tmp_path):
    model = load(stored(tmp_path / "m.onnx", of_all_sizes()))
    first = model.graph[0]
    second = ir.node("Relu", [first.outputs[0]], name="second")
    model.graph.insert_before(first, second)
    with pytest.raises(ModelError, match="cannot be copied"):
        save(model, tmp_path / "n.onnx")
    assert not (tmp_path / "n.onnx").exists()


def test_fields_may_come_in_any_order_and_in_parts(tmp_path):
    proto = of_all_sizes()
    graph = onnx.GraphProto(initializer=proto.graph.initializer[4:])
    part = onnx.ModelProto(graph=graph, producer_version="2")
    del proto.graph.initializer[4:]
    unknown = b"\xfa\x3f\x03abc\xf8\x3f\x05\xfd\x3f\x00\x00\x80\x3f"
    content = part.SerializeToString() + unknown + proto.SerializeToString()
    whole = onnx.ModelProto()
    whole.ParseFromString(content)
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with path.open("rb") as file:
        assert parsing.parse(file, len(content)) == whole
    with path.open("rb") as file:
        read = parsing.parse(file, len(content))
        assert read.SerializeToString() == whole.SerializeToString()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_files_are_read_as_protobuf_reads_them(data):
    content = bytearray(DAMAGED)
    for _ in range(data.draw(st.integers(1, 3))):
        # Most of the file are weights: what is around them is more interesting.
        place = data.draw(st.sampled_from(OUTSIDE_WEIGHTS))
        content[place] = data.draw(st.integers(0, 255))
    content = bytes(content[: data.draw(st.sampled_from([len(content), len(content) - 1]))])
    whole = onnx.ModelProto()
    try:
        whole.ParseFromString(content)
    except DecodeError:
        with pytest.raises(DecodeError):
            parsing.parse(BytesIO(content), len(content))
        return
    assert parsing.parse(BytesIO(content), len(content)) == whole


DAMAGED = of_all_sizes().SerializeToString()
OUTSIDE_WEIGHTS = [*range(150), *range(len(DAMAGED) - 200, len(DAMAGED))]


def test_files_of_next_to_nothing_but_fields_are_left_to_protobuf(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(of_all_sizes().SerializeToString() + b"\xf8\x3f\x05" * 400_000)
    started = time.process_time()
    load(path)
    assert time.process_time() - started < 5
