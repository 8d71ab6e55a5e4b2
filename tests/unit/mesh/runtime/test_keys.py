"""Keys: files that others could touch are refused; rotation has no moment without a good key."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.errors import ConfigError, Conflict, NotFound
from mesh.runtime.keys import (
    AUTHORIZED_FILE,
    Authorized,
    Keyring,
    KeyStore,
    load_access,
    load_keys,
)
from mesh.runtime.settings import Paths, load_paths
from mesh.transport.sockets import CurveKeys, raw_key

# zmq_curve(7) prints this secret; its public half is the server's of the example.
PUBLISHED_SECRET = "JTKVSB%%)wK0E.X)V>+}o?pNmC{O&4W4b!Ni{Lh6"
PUBLISHED_PUBLIC = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    monkeypatch.setenv("GENESIS_HOME", str(tmp_path))
    return load_paths()


@pytest.fixture
def store(paths: Paths) -> KeyStore:
    made = KeyStore(paths)
    made.create({"risk": "risk", "strategy.ema": "strategy"})
    return made


def ring_of(paths: Paths, node: str) -> Keyring:
    ring = load_keys(paths, node)
    assert ring is not None
    return ring


def public_of(ring: Keyring) -> bytes:
    assert ring.pair is not None
    return ring.pair.public


def write_authorized(store: KeyStore, text: str) -> None:
    """Replace the file as an editor does, with another inode."""
    fresh = store.directory / "fresh"
    fresh.write_text(text)
    fresh.chmod(0o600)
    fresh.replace(store.directory / AUTHORIZED_FILE)


def test_without_keys_there_is_no_ring(paths: Paths) -> None:
    assert load_keys(paths, "risk") is None


def test_a_node_has_its_pair_and_knows_those_of_others(paths: Paths, store: KeyStore) -> None:
    risk, strategy = ring_of(paths, "risk"), ring_of(paths, "strategy.ema")
    assert strategy.node_of(raw_key(public_of(risk))) == "risk"
    assert strategy.server_keys("risk") == (public_of(risk),)
    assert strategy.node_of(raw_key(CurveKeys.make().public)) is None
    assert strategy.server_keys("nobody") == ()
    assert strategy.roles == {"risk": "risk", "strategy.ema": "strategy"}


def test_a_node_without_a_key_has_none_and_still_knows_others(
    paths: Paths, store: KeyStore
) -> None:
    ring = ring_of(paths, "spread")
    assert ring.pair is None
    assert ring.server_keys("risk")


def test_files_are_ours_alone(store: KeyStore) -> None:
    assert store.directory.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in store.directory.iterdir()} == {0o600}


def test_the_reviewed_file_holds_no_secret_and_reads_back(store: KeyStore) -> None:
    text = (store.directory / AUTHORIZED_FILE).read_text()
    for path in store.directory.glob("*.secret"):
        assert path.read_text().strip() not in text
    assert Authorized.parse(text, "x").format() == text


def test_keys_are_never_overwritten(store: KeyStore) -> None:
    with pytest.raises(Conflict, match="not empty"):
        store.create({"risk": "risk"})
    with pytest.raises(Conflict, match="rotate"):
        store.add("risk", "risk")


def test_rotation_keeps_both_keys_good_until_it_is_finished(paths: Paths, store: KeyStore) -> None:
    peer, old = ring_of(paths, "strategy.ema"), public_of(ring_of(paths, "risk"))
    store.rotate("risk")
    assert peer.refresh() is False  # nobody need be cut
    new = public_of(ring_of(paths, "risk"))  # as after its restart
    assert new != old
    assert peer.server_keys("risk") == (old, new)
    assert {peer.node_of(raw_key(key)) for key in (old, new)} == {"risk"}
    store.finish("risk")
    assert peer.refresh() is True
    assert peer.node_of(raw_key(old)) is None
    assert peer.server_keys("risk") == (new,)
    assert public_of(ring_of(paths, "risk")) == new
    assert not list(store.directory.glob("*.next"))


def test_an_interrupted_rotation_leaves_a_node_with_a_good_key(
    paths: Paths, store: KeyStore
) -> None:
    before = (store.directory / AUTHORIZED_FILE).read_text()
    old = public_of(ring_of(paths, "risk"))
    store.rotate("risk")
    during = (store.directory / AUTHORIZED_FILE).read_text()
    write_authorized(store, before)  # the new secret was written, the list was not
    assert public_of(ring_of(paths, "risk")) == old
    write_authorized(store, during)
    secret = (store.directory / "risk.next").read_bytes()
    new = store.finish("risk").current
    (store.directory / "risk.secret").write_bytes(b"old and void\n")
    (store.directory / "risk.next").write_bytes(secret)  # the list was written, the file not moved
    (store.directory / "risk.next").chmod(0o600)
    assert public_of(ring_of(paths, "risk")).decode() == new


def test_rotations_do_not_overlap_and_end_only_once(store: KeyStore) -> None:
    with pytest.raises(Conflict, match="not being rotated"):
        store.finish("risk")
    store.rotate("risk")
    with pytest.raises(Conflict, match="--finish"):
        store.rotate("risk")
    with pytest.raises(NotFound):
        store.rotate("nobody")


def test_a_5_a_revoked_key_is_unknown_at_the_next_look_and_its_node_starts_no_more(
    paths: Paths, store: KeyStore
) -> None:
    peer, gone = ring_of(paths, "strategy.ema"), public_of(ring_of(paths, "risk"))
    secret = (store.directory / "risk.secret").read_bytes()
    assert peer.refresh() is False
    store.revoke("risk")
    assert peer.refresh() is True
    assert peer.refresh() is False
    assert peer.node_of(raw_key(gone)) is None
    assert not (store.directory / "risk.secret").exists()
    (store.directory / "risk.secret").write_bytes(secret)
    (store.directory / "risk.secret").chmod(0o600)
    with pytest.raises(ConfigError, match="no secret here belongs"):
        load_keys(paths, "risk")


def test_a_new_node_is_known_at_the_next_look(paths: Paths, store: KeyStore) -> None:
    peer = ring_of(paths, "risk")
    entry, loads = store.add("spread", "guest"), peer.loads
    assert peer.refresh() is False
    assert peer.loads == loads + 1
    assert peer.node_of(raw_key(entry.current.encode())) == "spread"


def test_a_file_damaged_while_we_run_changes_nothing_and_is_told(
    paths: Paths, store: KeyStore
) -> None:
    peer, good = ring_of(paths, "risk"), (store.directory / AUTHORIZED_FILE).read_text()
    write_authorized(store, "[nodes")
    assert peer.refresh() is False
    assert AUTHORIZED_FILE in peer.fault
    assert peer.server_keys("strategy.ema")
    (store.directory / AUTHORIZED_FILE).unlink()
    assert peer.refresh() is False
    assert peer.server_keys("strategy.ema")
    write_authorized(store, good)
    peer.refresh()
    assert peer.fault == ""


def open_to_others(path: Path) -> None:
    path.chmod(0o644)


def short(path: Path) -> None:
    path.write_text("short\n")


def long(path: Path) -> None:
    path.write_text(path.read_text().strip() + "0\n")


def not_z85(path: Path) -> None:
    path.write_text("~" * 40)


def published(path: Path) -> None:
    path.write_text(PUBLISHED_SECRET)


def anothers(path: Path) -> None:
    path.write_bytes(CurveKeys.make().secret)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def gone(path: Path) -> None:
    path.unlink()


def foreign(path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a file away")
    os.chown(path, 65534, 65534)


@pytest.mark.parametrize(
    "spoil",
    [open_to_others, short, long, not_z85, published, anothers, link, pipe, gone, foreign],
)
def test_a_30_a_spoilt_secret_refuses_to_start_in_one_line_without_showing_it(
    paths: Paths, store: KeyStore, spoil: Callable[[Path], None]
) -> None:
    secret = (store.directory / "risk.secret").read_text().strip()
    spoil(store.directory / "risk.secret")
    with pytest.raises(ConfigError) as caught:
        load_keys(paths, "risk")
    assert "\n" not in str(caught.value)
    assert secret not in str(caught.value)
    assert PUBLISHED_SECRET not in str(caught.value)


def test_a_30_only_the_node_itself_minds_its_secret(paths: Paths, store: KeyStore) -> None:
    published(store.directory / "risk.secret")
    assert ring_of(paths, "strategy.ema").pair is not None


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f'[nodes.risk]\ncurrent = "{PUBLISHED_PUBLIC}"', "public documentation"),
        ('[nodes.risk]\ncurrent = "short"', "Z85"),
        ('[nodes.risk]\nnext = ""', "current"),
        ('[nodes.risk]\ncurrent = ""\nlast = ""', "last"),
        ('[nodes."a/b"]\ncurrent = "KEY"', "not a node name"),
        ('[nodes.a]\ncurrent = "KEY"\n[nodes.b]\ncurrent = "KEY"', "the key of a again"),
        ('[nodes.a]\ncurrent = "KEY"\nnext = "KEY"', "the key of a again"),
        ("[nodes", "Expected"),
    ],
)
def test_a_30_a_faulty_list_refuses_to_start(
    paths: Paths, store: KeyStore, text: str, fault: str
) -> None:
    write_authorized(store, text.replace("KEY", CurveKeys.make().public.decode()))
    with pytest.raises(ConfigError, match=fault) as caught:
        load_keys(paths, "risk")
    assert AUTHORIZED_FILE in str(caught.value)


def test_a_30_a_list_that_others_may_write_refuses_to_start(paths: Paths, store: KeyStore) -> None:
    (store.directory / AUTHORIZED_FILE).chmod(0o644)  # reading it is no secret
    assert load_keys(paths, "risk") is not None
    (store.directory / AUTHORIZED_FILE).chmod(0o620)
    with pytest.raises(ConfigError, match="chmod 0600"):
        load_keys(paths, "risk")


def test_a_30_a_directory_that_is_open_or_a_link_refuses_to_start(
    paths: Paths, store: KeyStore
) -> None:
    store.directory.chmod(0o755)
    with pytest.raises(ConfigError, match="chmod 0700"):
        load_keys(paths, "risk")
    store.directory.chmod(0o700)
    store.directory.rename(paths.home / "moved")
    store.directory.symlink_to(paths.home / "moved")
    with pytest.raises(ConfigError, match="chmod 0700"):
        load_keys(paths, "risk")


def test_access_follows_the_roles_of_the_list(paths: Paths, store: KeyStore) -> None:
    store.add("twin", "recorder")
    access = load_access(paths, ring_of(paths, "risk"))
    assert access.role_of("twin") == "recorder"
    assert load_access(paths).role_of("twin") == "guest"
    store.add("odd", "boss")
    with pytest.raises(ConfigError, match="boss"):
        load_access(paths, ring_of(paths, "risk"))


def test_access_without_its_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"access\.toml: No such file"):
        load_access(Paths(*[tmp_path] * 6))
