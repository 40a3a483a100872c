"""Libraries that another thread may be loading at this moment, as a sampler's does while this rank trains."""

import sys
import threading
import types

from openhpo.libraries import loaded
from openhpo.training.randomness import seed_everything


def test_a_module_is_loaded_or_not():
    assert loaded("sys") is sys
    assert loaded("openhpo.nowhere") is None


def test_a_module_that_another_thread_is_loading_is_not_there_yet(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text("import gate\ngate.begun.set()\ngate.may_end.wait(60)\n")
    gate = types.ModuleType("gate")
    gate.begun, gate.may_end = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "gate", gate)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path))
    thread = threading.Thread(target=__import__, args=("torch",))
    thread.start()
    try:
        assert gate.begun.wait(60)
        assert "torch" in sys.modules
        assert loaded("torch") is None
        seed_everything(0, 1)
    finally:
        gate.may_end.set()
        thread.join(60)
    assert loaded("torch") is not None
