# SPDX-License-Identifier: Apache-2.0
"""Encrypted model files: AES-256-GCM, one message per file. The only importer of `cryptography`.

    magic (8 bytes) | nonce (12 bytes, random) | ciphertext (as long as the file) | tag (16 bytes)

Magic and the file's path within its model are authenticated with it, so that files cannot be exchanged for one another. A file
is coded in pieces: its size is bounded by GCM (64 GiB), not by memory. docs/decisions/0004 says why it is done this way.
"""

from __future__ import annotations

import base64
import binascii
import os
import shutil
from collections.abc import Container, Iterator
from pathlib import Path
from typing import BinaryIO

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import GCM

from ...ipc.errors import invalid

SUFFIX = ".enc"
MAGIC = b"PENSTK\x00\x01"
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
OVERHEAD_BYTES = len(MAGIC) + NONCE_BYTES + TAG_BYTES
CHUNK_BYTES = 1024 * 1024


def new_key() -> str:
    """A fresh random key as text (base64)."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def parse_key(text: str, source: str) -> bytes:
    """The key that a text holds. Raises CallerError that names `source` and says nothing of the key."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except binascii.Error:
        raise invalid(f"the key in {source} is not base64") from None
    if len(key) != KEY_BYTES:
        raise invalid(f"the key in {source} has {len(key)} bytes, {KEY_BYTES} are needed")
    return key


def encrypt_model(source: Path | str, target: Path | str, key: str, plain: Container[str] = ("config.pbtxt",)) -> list[str]:
    """Makes `target` a copy of the model directory `source` in which files are encrypted, their names ending in .enc.

    `plain`: the paths within the model that stay as they are; the configuration must, as it names the agent. Returns the
    paths that were encrypted. Raises CallerError when the key is none, OSError.
    """
    secret = parse_key(key, "the argument")
    encrypted = []
    for path in contents_of(Path(source)):
        name = path.relative_to(source).as_posix()
        copy = Path(target) / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            copy.mkdir(exist_ok=True)
        elif name in plain:
            shutil.copyfile(path, copy)
        else:
            encrypt_file(path, copy.with_name(copy.name + SUFFIX), secret, name)
            encrypted.append(name)
    return encrypted


def contents_of(directory: Path) -> Iterator[Path]:
    """Everything in a model's directory, links followed; directories before what is in them."""
    for folder, folders, files in os.walk(directory, followlinks=True):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(folders + files))


def encrypt_file(source: Path, target: Path, key: bytes, name: str) -> None:
    """Encrypts a file. `name`: its path within the model, without the suffix."""
    nonce = os.urandom(NONCE_BYTES)
    coder = Cipher(AES256(key), GCM(nonce)).encryptor()
    coder.authenticate_additional_data(_associated(name))
    with source.open("rb") as plain, target.open("wb") as sealed:
        sealed.write(MAGIC + nonce)
        while chunk := plain.read(CHUNK_BYTES):
            sealed.write(coder.update(chunk))
        sealed.write(coder.finalize() + coder.tag)


def decrypt_file(source: Path, target: Path, key: bytes, name: str) -> None:
    """Decrypts a file. Raises CallerError when it is not one that this key has encrypted under this name.

    What is in `target` must not be used unless this returns: only then it is known to be what was encrypted.
    """
    with source.open("rb") as sealed, target.open("wb") as plain:
        left = os.fstat(sealed.fileno()).st_size - OVERHEAD_BYTES
        head = sealed.read(len(MAGIC) + NONCE_BYTES)
        if left < 0 or not head.startswith(MAGIC):
            raise invalid(f"file {name}{SUFFIX} was not made by Penstock's encrypt_model")
        coder = Cipher(AES256(key), GCM(head[len(MAGIC) :])).decryptor()
        coder.authenticate_additional_data(_associated(name))
        while left:
            chunk = _exactly(sealed, min(left, CHUNK_BYTES), name)
            plain.write(coder.update(chunk))
            left -= len(chunk)
        try:
            coder.finalize_with_tag(_exactly(sealed, TAG_BYTES, name))
        except InvalidTag:
            raise invalid(f"file {name}{SUFFIX} cannot be decrypted: the key is another one, or the file was changed") from None


def _associated(name: str) -> bytes:
    return MAGIC + name.encode()


def _exactly(file: BinaryIO, count: int, name: str) -> bytes:
    content = file.read(count)
    if len(content) != count:
        raise invalid(f"file {name}{SUFFIX} shrank while it was read")
    return content
