"""The registry's client against a registry that runs: registry.py HOST:PORT FOLDER [CA TOKEN].

FOLDER was pushed as `m:best`, with the label team=vision, by the caller. Tampered answers are made here. With CA and TOKEN the
registry encrypts under a certificate of CA, and asks for tokens; TOKEN may read `m` and nothing else.
"""

import hashlib
import sys
import tempfile
import unittest
from pathlib import Path

import zstandard

sys.path.insert(0, str(Path(__file__).parent.parent))

import espalier_registry  # noqa: E402
from espalier_registry import Chunk, RegistryError  # noqa: E402

ADDRESS, FOLDER = sys.argv[1], Path(sys.argv[2])
CA, TOKEN = sys.argv[3:] or (None, None)


class Client(unittest.TestCase):
    def setUp(self) -> None:
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.scratch = Path(scratch.name)
        self.registry = espalier_registry.connect(ADDRESS, TOKEN, CA)
        self.addCleanup(self.registry.close)

    def test_what_was_pushed_is_pulled(self) -> None:
        target = self.scratch / "pulled"
        seen: list[tuple[int, int]] = []
        checkpoint = self.registry.pull("m:best", target, lambda *at: seen.append(at))
        pulled = {file.path: (target / file.path).read_bytes() for file in checkpoint.files}
        self.assertEqual(pulled, {p.name: p.read_bytes() for p in FOLDER.iterdir()})
        self.assertEqual(seen[-1][0], seen[-1][1])
        self.assertEqual([p.name for p in self.scratch.iterdir()], ["pulled"])
        with self.assertRaisesRegex(RegistryError, "is there already"):
            self.registry.pull("m:best", target)

    def test_checkpoints_are_found(self) -> None:
        (found,) = self.registry.list(where="label.team = vision")
        self.assertEqual((found.name, found.aliases), ("m", ("best",)))
        self.assertEqual(self.registry.get(found.digest).digest, found.digest)
        self.assertEqual(list(self.registry.list(where="label.team = audio")), [])
        with self.assertRaisesRegex(RegistryError, "character"):
            list(self.registry.list(where="label.team ="))
        with self.assertRaisesRegex(RegistryError, "read:nobody" if TOKEN else "NOT_FOUND"):
            self.registry.get("nobody:latest")

    @unittest.skipUnless(TOKEN, "the registry asks for no token")
    def test_a_token_is_asked_for_and_not_sent_in_the_clear(self) -> None:
        with espalier_registry.connect(ADDRESS, None, CA) as nobody:
            with self.assertRaisesRegex(RegistryError, "UNAUTHENTICATED"):
                nobody.get("m:best")
        with self.assertRaisesRegex(RegistryError, "without encryption"):
            espalier_registry.connect("10.0.0.1:1", TOKEN)
        with self.assertRaisesRegex(RegistryError, "no registry answers"):
            espalier_registry.connect(ADDRESS)

    def test_wrong_bytes_are_refused(self) -> None:
        chunk = Chunk("sha256:" + hashlib.sha256(b"abc").hexdigest(), 3)
        pack = zstandard.ZstdCompressor().compress
        self.assertEqual(espalier_registry._unpack(chunk, 0, b"abc", "x"), b"abc")
        self.assertEqual(espalier_registry._unpack(chunk, 1, pack(b"abc"), "x"), b"abc")
        for encoding, data in [(0, b"abd"), (0, b"abcd"), (1, pack(b"abd")), (1, pack(bytes(64 << 20))), (1, b"abc")]:
            with self.assertRaises(RegistryError):
                espalier_registry._unpack(chunk, encoding, data, "x")

    def test_paths_that_leave_the_folder_are_refused(self) -> None:
        for path in ["/etc/passwd", "../up", "a/../../b", "a//b", "a\\b", "c:d", ".", "", "a\0b", "a\u202eb", "nai\u0308ve"]:
            with self.assertRaisesRegex(RegistryError, "out of the folder"):
                espalier_registry._file({"path": path, "size": 0, "media_type": "", "chunks": []})

    def test_manifests_that_are_none_are_refused(self) -> None:
        file = b'{"chunks":[],"media_type":"","path":"%s","size":0}'
        two = file % b"a" + b"," + file % b"A"
        for manifest in [b"", b"[]", b"{}", b"[" * 100_000, b'{"espalier":2}', b'{"espalier":2,"files":[' + two + b"]}"]:
            with self.assertRaises(RegistryError):
                espalier_registry._checkpoint(manifest, "")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
