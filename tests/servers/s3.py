"""A real S3 API on loopback: moto's server, in this process, that can be stopped and started."""

import functools
import json
import logging
import urllib.request
from pathlib import Path

from tests.servers.faults import FaultProxy

KEY, SECRET = "test-key", "test-secret"


@functools.cache  # each takes 0.1 s to make
def _client(service, url, key, secret):
    import boto3

    return boto3.session.Session().client(
        service,
        endpoint_url=url,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        region_name="us-east-1",
    )


class S3Server:
    """Objects live as long as this process, and survive `stop` and `start` on the same port."""

    def __init__(self):
        self._server, self.port = None, 0

    def start(self):
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line a request, on stderr
        self._server = ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self._server.start()
        self.port = self._server.get_host_and_port()[1]

    def stop(self):
        self._server.stop()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def address(self):
        return "127.0.0.1", self.port

    def client(self, service="s3", key=KEY, secret=SECRET):
        return _client(service, self.url, key, secret)

    def make_bucket(self, bucket):
        self.client().create_bucket(Bucket=bucket)
        return bucket

    def upload(self, folder: Path, bucket, prefix=""):
        """Every file of a folder as an object."""
        client = self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"{prefix}{path.relative_to(folder).as_posix()}"
                client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())

    def check_keys_from_now_on(self):
        """Refuse wrong keys and secrets; returns a (key, secret) that may do everything."""
        iam = self.client("iam")
        iam.create_user(UserName="reader")
        allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        iam.put_user_policy(UserName="reader", PolicyName="all", PolicyDocument=document)
        made = iam.create_access_key(UserName="reader")["AccessKey"]
        self._post("/moto-api/reset-auth", b"0")
        return made["AccessKeyId"], made["SecretAccessKey"]

    def check_no_keys(self):
        self._post("/moto-api/reset-auth", b"Infinity")

    def reset(self):
        """Forget all objects and users."""
        self.check_no_keys()
        self._post("/moto-api/reset", b"")

    def _post(self, path, body):
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(self.url + path, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200


def proxy_to(server):
    """A FaultProxy in front of an S3Server."""
    return FaultProxy(server.address)
