"""A child that has outlived its parent takes no more work."""

from __future__ import annotations

import json
import socket

from tests.waiting import eventually
from tts_workers.leadership import BelievedLease
from tts_workers.link import ChildLink, new_address


def test_a_child_whose_parent_is_gone_neither_leads_nor_serves() -> None:
    """Its worker is being recovered, and Celery lets it finish a shift, however long that is."""
    address = new_address()
    lease = BelievedLease()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(b"\0" + address.encode())
        server.listen()
        ChildLink(address, lease.parent_said, lease.parent_gone)
        parent, _ = server.accept()
        with parent:  # which the kernel closes, whatever the parent died of
            said = {"serving": True, "lease": "1:w1", "others_ready": 2}
            parent.sendall(json.dumps(said).encode() + b"\n")
            assert lease.serves(30.0)
            assert lease.get(30.0) is not None
        eventually(lambda: not lease.serves())
    assert lease.get(0.0) is None
    assert lease.others_ready == 0
