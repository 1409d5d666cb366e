"""No route to a checkpoint runs what is pickled in it."""

import functools
import http.server
import pickle
import threading

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy, SingleDeviceStrategy

from dmaxlit import UserError
from dmaxlit.checkpoints.atomic_io import AtomicCheckpointIO
from dmaxlit.checkpoints.plain_data import guard_strategy, require_local


class Writer:
    """A value whose unpickling writes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


@pytest.fixture
def trace(tmp_path):
    """Return the file that exists once the pickle has run."""
    return tmp_path / "it_ran"


@pytest.fixture
def hostile(tmp_path, trace):
    path = tmp_path / "hostile.ckpt"
    torch.save({"state_dict": {}, "global_step": 1, "more": Writer(trace)}, path)
    return path


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serve the folder on 127.0.0.1, and keep what is fetched out of the user's cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()


def test_the_pickle_of_these_tests_does_run_where_nothing_stops_it(hostile, trace):
    torch.load(hostile, weights_only=False)["more"].close()
    assert trace.exists()


@pytest.mark.parametrize("weights_only", [None, False, True])
def test_a_local_file_runs_nothing(hostile, trace, weights_only):
    with pytest.raises(UserError, match="expected plain data and tensors"):
        AtomicCheckpointIO().load_checkpoint(hostile, weights_only=weights_only)
    assert not trace.exists()


def test_a_file_of_an_address_runs_nothing(hostile, trace, server):
    with pytest.raises(UserError, match="expected a local file or folder"):
        AtomicCheckpointIO().load_checkpoint(f"{server}/{hostile.name}")
    assert not trace.exists()


def test_a_strategy_with_lightnings_own_reader_runs_nothing(hostile, trace, server):
    strategy = SingleDeviceStrategy("cpu")
    guard_strategy(strategy, reads_folders=False)
    for path in (hostile, f"{server}/{hostile.name}", f"file://{hostile}", f"simplecache::{server}/{hostile.name}"):
        with pytest.raises((UserError, pickle.UnpicklingError)):
            strategy.load_checkpoint(path, weights_only=False)
    assert not trace.exists()


def test_fsdp_which_reads_lazily_runs_nothing(hostile, trace):
    strategy = FSDPStrategy()
    guard_strategy(strategy, reads_folders=False)
    with pytest.raises(UserError, match="expected plain data and tensors"):
        strategy.load_checkpoint(hostile)
    assert not trace.exists()


def test_a_folder_is_left_to_a_strategy_that_reads_plain_data(tmp_path, trace):
    folder = tmp_path / "sharded.ckpt"
    folder.mkdir()
    (folder / ".metadata").write_bytes(pickle.dumps(Writer(trace)))
    torch.save({}, folder / "meta.pt")
    for strategy in (ModelParallelStrategy(), FSDPStrategy(), SingleDeviceStrategy("cpu")):
        guard_strategy(strategy, reads_folders=False)
        with pytest.raises(UserError, match="expected a file, got the folder"):
            strategy.load_checkpoint(folder)
    assert not trace.exists()


def test_a_guarded_strategy_loads_its_own_checkpoints_and_can_be_pickled(tmp_path):
    path = tmp_path / "last.ckpt"
    strategy = SingleDeviceStrategy("cpu")
    guard_strategy(strategy, reads_folders=False)
    torch.save({"state_dict": {"weight": torch.arange(3)}}, path)
    for loader in (strategy, pickle.loads(pickle.dumps(strategy))):
        assert loader.load_checkpoint(path)["state_dict"]["weight"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "path", ["http://h/a.ckpt", "https://h/a", "s3://b/a.ckpt", "gs://b/a", "registry:name", "filecache::s3://b/a"]
)
def test_a_remote_path_is_refused(path):
    with pytest.raises(UserError, match="download it first"):
        require_local(path)


@pytest.mark.parametrize("path", ["a.ckpt", "runs/epoch=1-step=2.ckpt", "http.ckpt", "last", "C:/a.ckpt"])
def test_a_local_path_passes(path):
    require_local(path)
