"""A real SFTP server on loopback: openssh's sshd as this user, for one folder of keys."""

import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

SEPARATION_FOLDER = Path("/run/sshd")
"""What sshd asks for where it runs as root."""


def missing_for_sftp():
    """Why there can be no server here; None where there can."""
    for name in ("sshd", "ssh-keygen"):
        if _tool(name) is None:
            return f"needs openssh-server ({name} is not installed)"
    if os.geteuid() == 0 and not SEPARATION_FOLDER.is_dir():
        try:
            SEPARATION_FOLDER.mkdir(mode=0o755)
        except OSError as error:
            return f"sshd as root needs {SEPARATION_FOLDER}: {error.strerror}"
    return None


class SftpServer:
    """While it is entered, `url` of any path can be read with `key` and `known_hosts`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self.key, self.known_hosts = folder / "client", folder / "known_hosts"

    def __enter__(self):
        for name in ("host", "client"):
            _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._folder / name))
        shutil.copy(self._folder / "client.pub", self._folder / "authorized_keys")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        host_key = (self._folder / "host.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {host_key}")
        self._config().write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self._folder}/host\n"
            f"AuthorizedKeysFile {self._folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
            f"PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
            f"PidFile {self._folder}/pid\nSubsystem sftp internal-sftp\n"
        )
        self.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        command = [_tool("sshd"), "-D", "-e", "-f", str(self._config())]
        with open(self._folder / "log", "ab") as log:
            self._process = subprocess.Popen(command, stderr=log)
        for _ in range(500):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self._process.poll() is None, (self._folder / "log").read_text()
            time.sleep(0.02)
        raise TimeoutError("sshd does not answer")

    def stop(self):
        """End it, and with it nothing of its sessions: those end with their clients."""
        self._process.terminate()
        self._process.wait(timeout=20)

    def url(self, path):
        return f"sftp://{getpass.getuser()}@127.0.0.1:{self.port}{path}"

    def _config(self):
        return self._folder / "config"


def _tool(name):
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


def _run(name, *arguments):
    subprocess.run([_tool(name), *arguments], check=True, timeout=30)
