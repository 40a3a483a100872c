"""Libraries that another thread may be loading at this moment, as a sampler's does while this rank trains."""

import sys
import threading
import types

from openhpo.libraries import loaded


def test_a_module_is_loaded_or_not():
    assert loaded("sys") is sys
    assert loaded("openhpo.nowhere") is None


def test_a_module_that_another_thread_is_loading_is_not_there_yet(tmp_path, monkeypatch):
    (tmp_path / "slow_to_load.py").write_text("import gate\ngate.begun.set()\ngate.may_end.wait(60)\n")
    gate = types.ModuleType("gate")
    gate.begun, gate.may_end = threading.Event(), threading.Event()
    monkeypatch.setitem(sys.modules, "gate", gate)
    monkeypatch.syspath_prepend(str(tmp_path))
    thread = threading.Thread(target=__import__, args=("slow_to_load",))
    thread.start()
    try:
        assert gate.begun.wait(60)
        assert "slow_to_load" in sys.modules
        assert loaded("slow_to_load") is None
    finally:
        gate.may_end.set()
        thread.join(60)
    assert loaded("slow_to_load") is not None
