#!/usr/bin/env python3
"""Python's multiprocessing with the fork method: each worker inherits an initialised library with a login and sessions.

A worker finds it uninitialised, initialises it for itself, logs in and signs; the parent goes on signing all the while.
Environment: P11_MODULE, P11_PIN, KAGIMORI_CONFIG. Without them: SKIP, exit 0. Needs the standard library only.
"""
import ctypes
import multiprocessing
import os
import sys

NOT_INITIALIZED = 0x190
WORKERS, ROUNDS = 4, 20


class Attribute(ctypes.Structure):
    _fields_ = [("type", ctypes.c_ulong), ("value", ctypes.c_void_p), ("length", ctypes.c_ulong)]


class Mechanism(ctypes.Structure):
    _fields_ = [("mechanism", ctypes.c_ulong), ("parameter", ctypes.c_void_p), ("length", ctypes.c_ulong)]


def attributes(*pairs):
    kept = [ctypes.create_string_buffer(value, len(value)) for _, value in pairs]
    array = (Attribute * len(pairs))()
    for item, (kind, value), buffer in zip(array, pairs, kept):
        item.type, item.value, item.length = kind, ctypes.cast(buffer, ctypes.c_void_p), len(value)
    array.kept = kept
    return array


class Token:
    def __init__(self, library):
        self.library = library
        self.check("C_Initialize", None)
        session = ctypes.c_ulong()
        self.check("C_OpenSession", ctypes.c_ulong(0), ctypes.c_ulong(6), None, None, ctypes.byref(session))
        self.session = session
        pin = os.environ["P11_PIN"].encode()
        self.check("C_Login", session, ctypes.c_ulong(1), pin, ctypes.c_ulong(len(pin)))
        public = attributes((0x1, b"\0"), (0x180, bytes.fromhex("06082a8648ce3d030107")))
        private = attributes((0x1, b"\0"), (0x108, b"\1"))
        self.public, self.private = ctypes.c_ulong(), ctypes.c_ulong()
        how = Mechanism(0x1040, None, 0)
        self.check("C_GenerateKeyPair", session, ctypes.byref(how), public, ctypes.c_ulong(2), private,
                   ctypes.c_ulong(2), ctypes.byref(self.public), ctypes.byref(self.private))

    def call(self, name, *arguments):
        function = getattr(self.library, name)
        function.restype = ctypes.c_ulong
        return function(*arguments)

    def check(self, name, *arguments):
        answer = self.call(name, *arguments)
        if answer:
            raise AssertionError(f"{name} answered {answer:#x} in process {os.getpid()}")

    def sign(self):
        how, length = Mechanism(0x1041, None, 0), ctypes.c_ulong(64)
        self.check("C_SignInit", self.session, ctypes.byref(how), self.private)
        signature = ctypes.create_string_buffer(64)
        self.check("C_Sign", self.session, b"h" * 32, ctypes.c_ulong(32), signature, ctypes.byref(length))
        return length.value


def work(_):
    inherited = PARENT
    answer = inherited.call("C_CloseSession", inherited.session)
    if answer != NOT_INITIALIZED and not hasattr(work, "token"):
        raise AssertionError(f"an inherited library answered {answer:#x}")
    if not hasattr(work, "token"):
        work.token = Token(inherited.library)
    return sum(work.token.sign() for _ in range(ROUNDS))


if __name__ == "__main__":
    missing = [name for name in ("P11_MODULE", "P11_PIN", "KAGIMORI_CONFIG") if name not in os.environ]
    if missing:
        print("SKIP multiprocessing_fork.py:", ", ".join(missing), "not set")
        sys.exit(0)
    PARENT = Token(ctypes.CDLL(os.environ["P11_MODULE"]))
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        results = pool.map_async(work, range(WORKERS * 3), chunksize=1)
        while not results.ready():
            assert PARENT.sign() == 64
        assert results.get(60) == [64 * ROUNDS] * (WORKERS * 3)
    assert PARENT.sign() == 64
    PARENT.check("C_Finalize", None)
    print("PASS multiprocessing_fork.py")
