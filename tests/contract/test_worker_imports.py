# SPDX-License-Identifier: Apache-2.0
"""What the code of a worker imports in a fresh interpreter: no library of a backend or a device before something asks for it."""

from __future__ import annotations

import subprocess
import sys


def said_by(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout.strip()


def test_a_worker_imports_no_library_of_a_backend_and_no_cuda_by_itself() -> None:
    libraries = {"cuda", "onnxruntime", "tensorrt", "torch"}
    assert said_by(f"import sys, penstock.workers.main as m; m.main; print({libraries!r} & {{*sys.modules}})") == "set()"


def test_a_worker_imports_nothing_that_only_a_gpu_needs_before_it_is_given_one() -> None:
    program = "import sys, penstock.workers.main as m; m.main; print([n for n in sys.modules if 'on_gpu' in n or 'devices.cuda' in n])"
    assert said_by(program) == "[]"


def test_what_is_not_installed_is_named_with_what_to_install() -> None:
    said = said_by(
        "import sys; sys.modules['torch'] = None\n"
        "from penstock.workers.backends import make_backend\n"
        "from penstock.ipc.errors import PenstockError\n"
        "try: make_backend('pytorch_libtorch')\n"
        "except PenstockError as error: print(error.fault, error.code.value, error.message)\n"
    )
    assert said.startswith("machine UNSUPPORTED the pytorch backend needs torch, which cannot be imported")
    assert said.endswith("pip install 'penstock[torch]'")
