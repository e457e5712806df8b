"""Write the Python side of ``tuneloop.proto``: ``python -m tuneloop.serve.rpc.generate``. Needs ``grpcio-tools``."""

from __future__ import annotations

from pathlib import Path

from tuneloop.errors import ServeError, need

HERE = Path(__file__).parent
PROTO = "tuneloop/serve/rpc/tuneloop.proto"
FILES = ("tuneloop_pb2.py", "tuneloop_pb2.pyi", "tuneloop_pb2_grpc.py")


def generate(into: Path) -> list[Path]:
    """Compile the proto.

    Args:
        into: The folder that holds the package ``tuneloop``.

    Raises:
        ServeError: The proto is wrong; the compiler has said where.
    """
    protoc = need("grpc_tools.protoc", "dev")
    root, well_known = HERE.parents[2], Path(str(protoc.__file__)).parent / "_proto"
    out = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python")]
    if protoc.main(["protoc", f"-I{root}", f"-I{well_known}", *out, PROTO]):
        raise ServeError("protoc failed", where=PROTO)
    return [into / Path(PROTO).parent / name for name in FILES]


if __name__ == "__main__":
    for path in generate(HERE.parents[2]):
        print(path)
