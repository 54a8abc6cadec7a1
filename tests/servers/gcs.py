"""An emulator of Google's storage on loopback, in this process; it knows no generations."""


class GcsServer:
    """While it is entered, STORAGE_EMULATOR_HOST may be its `url`."""

    def __enter__(self):
        from gcp_storage_emulator.server import create_server

        self._server = create_server("127.0.0.1", 0, in_memory=True)
        self._server.start()
        self.url = f"http://127.0.0.1:{self._server._api._httpd.server_address[1]}"
        return self

    def __exit__(self, *_):
        self._server.stop()
